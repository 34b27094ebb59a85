//! Which rows and keys each block of `kernels/flash_attention.cu` takes.

use bytemuck::{Pod, Zeroable};

use super::key_runs::RunTable;
use crate::op::{Mask, Sequence};

/// Keys of a piece: always these, so that a row's result does not depend on how many others there
/// are.
pub(super) const SPLIT: usize = 256;

/// `Tile`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Tile {
    query: i32,
    queries: i32,
    kv_len: i32,
    runs: i32,
    row: i32,
    begin: i32,
    end: i32,
    piece: i32,
}

/// `Joint`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Joint {
    query: i32,
    queries: i32,
    row: i32,
    piece: i32,
    pieces: i32,
    reserved: [i32; 3],
}

/// How rows and keys are cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Rows of a tile.
    pub rows: usize,
    /// Keys that are loaded together.
    pub keys: usize,
    /// Whether keys are cut into pieces of [`SPLIT`].
    pub split: bool,
    /// Query heads that share a key head.
    pub group: usize,
    /// Rows of k of one outermost index.
    pub kv_rows: usize,
    pub mask: Mask,
}

/// The work of one launch, for each key head.
#[derive(Debug)]
pub(super) struct Tiles {
    pub tiles: Vec<Tile>,
    pub joints: Vec<Joint>,
    pub runs: RunTable,
    /// How many pieces are joined.
    pub pieces: usize,
}

impl Tiles {
    pub fn new(sequences: &[Sequence], cut: &Cut) -> Self {
        let runs = RunTable::new(cut.kv_rows);
        let mut all = Tiles { tiles: Vec::new(), joints: Vec::new(), runs, pieces: 0 };
        for sequence in sequences {
            let first_run = all.runs.add(sequence);
            let rows = sequence.queries.len() * cut.group;
            // The last rows see the most keys where the mask is causal: they begin first.
            for row in (0..rows).step_by(cut.rows).rev() {
                all.add(sequence, cut, first_run, row..rows.min(row + cut.rows));
            }
        }
        all
    }

    fn add(
        &mut self,
        sequence: &Sequence,
        cut: &Cut,
        first_run: i32,
        rows: std::ops::Range<usize>,
    ) {
        let seen = |row: usize| cut.mask.keys(sequence.position(row / cut.group), sequence.kv_len);
        let (begin, end) = (seen(rows.start).start, seen(rows.end - 1).end);
        let size = if cut.split { SPLIT } else { usize::MAX };
        let begin = begin / cut.keys * cut.keys;
        let mut pieces = Vec::new();
        let mut at = begin;
        while at < end {
            let next = if cut.split { (at / size + 1) * size } else { end };
            pieces.push((at, next.min(end)));
            at = next;
        }
        if pieces.is_empty() {
            pieces.push((0, 0));
        }
        let first_piece = self.pieces as i32;
        let joined = pieces.len() > 1;
        let tile = Tile {
            query: sequence.queries.start as i32,
            queries: sequence.queries.len() as i32,
            kv_len: sequence.kv_len as i32,
            runs: first_run,
            row: rows.start as i32,
            begin: 0,
            end: 0,
            piece: -1,
        };
        self.tiles.extend(pieces.iter().enumerate().map(|(i, &(begin, end))| Tile {
            begin: begin as i32,
            end: end as i32,
            piece: if joined { first_piece + i as i32 } else { -1 },
            ..tile
        }));
        if joined {
            self.pieces += pieces.len();
            self.joints.push(Joint {
                query: tile.query,
                queries: tile.queries,
                row: tile.row,
                piece: first_piece,
                pieces: pieces.len() as i32,
                reserved: [0; 3],
            });
        }
    }
}
