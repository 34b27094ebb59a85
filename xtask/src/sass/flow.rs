//! The main loop of a kernel, and what one of its steady iterations executes.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ops::Add;

use super::listing::{Block, Instruction};
use super::mix;

/// Blocks that run again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loop {
    header: usize,
    blocks: BTreeSet<usize>,
}

/// What warps execute again and again, or once.
#[derive(Debug, PartialEq, Eq)]
pub struct Steady<'b> {
    pub path: Vec<&'b Instruction>,
    /// Whether each warp takes the path once: it leads through the whole kernel.
    pub once: bool,
}

/// One steady iteration of a kernel's main loop; the kernel where it has no loop, or does not multiply,
/// moves all that there is on one way through it, by the bytes of a warp, and most of that in no loop.
///
/// The main loop is the innermost with the most matrix instructions; without those, of the most
/// deeply nested ones that which moves the most bytes of global memory. Of the paths through it, if
/// there are some that multiply of those, the one is taken that copies the most asynchronously, then
/// multiplies the least, then reads the least of shared memory. Between ways that part and meet again
/// and are equal so far, one that moves bytes, of global memory or to shared memory, goes before one
/// that moves none, then the shorter: what is to be moved is moved, in the simplest way that there is.
/// So what happens at the edges of a matrix, where neighbours are not neighbours in memory, what does
/// the same once more, with care for rare values, and loops within that do neither, are left out.
/// Operands that may be absent are there: of kernels that take some, more is counted than is executed.
pub fn main_loop(blocks: &[Block], is_all: impl Fn(u64) -> bool) -> Steady<'_> {
    let dominators = Dominators::of(blocks);
    let loops = loops(blocks, &dominators);
    let own = |of: &Loop| -> Work {
        let inner = |block: &usize| {
            loops.iter().any(|l| {
                l.header != of.header && of.blocks.contains(&l.header) && l.blocks.contains(block)
            })
        };
        let own = of.blocks.iter().filter(|block| !inner(block));
        own.fold(Work::default(), |work, &block| work + Work::of(&blocks[block]))
    };
    let depth = |of: &Loop| loops.iter().filter(|l| l.blocks.contains(&of.header)).count();
    let main = loops.iter().map(|l| (own(l), l)).max_by_key(|(work, l)| {
        let moves = (work.bytes > 0).then_some((depth(l), work.bytes));
        (work.products, moves, Reverse((work.instructions, l.header)))
    });
    let once = || {
        let all = (0..blocks.len()).collect();
        let ends = |block: usize| blocks[block].next.is_empty();
        Steady { path: steady_path(blocks, &dominators, 0, &all, ends), once: true }
    };
    let Some((work, main)) = main.filter(|(work, _)| work.products > 0 || work.bytes > 0) else {
        return once();
    };
    let is_latch = |block: usize| blocks[block].next.contains(&main.header);
    let path = steady_path(blocks, &dominators, main.header, &main.blocks, is_latch);
    if work.products == 0 {
        let bytes = |path: &[&Instruction]| path.iter().map(|i| mix::global_bytes(i)).sum::<u64>();
        let once = once();
        let of_all = bytes(&once.path);
        if is_all(of_all) && 2 * bytes(&path) < of_all {
            return once;
        }
    }
    Steady { path, once: false }
}

/// What instructions do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Work {
    read: u64,
    products: u64,
    copied: u64,
    bytes: u64,
    written: u64,
    instructions: usize,
}

impl Work {
    fn of(block: &Block) -> Self {
        let sum = |f: fn(&Instruction) -> u64| block.instructions.iter().map(f).sum();
        Work {
            read: sum(mix::shared_read),
            products: sum(mix::products),
            copied: sum(mix::copied_bytes),
            bytes: sum(mix::global_bytes),
            written: sum(mix::shared_written),
            instructions: block.instructions.len(),
        }
    }

    fn moved(self) -> u64 {
        self.bytes + self.written
    }

    /// The larger, the better a path, which has a part in common with the one it is set against.
    fn rank(self, common: Work) -> impl Ord {
        let Work { read, products, copied, instructions, .. } = self;
        let least = (Reverse(products), Reverse(read));
        (products > 0, copied, least, self.moved() > common.moved(), Reverse(instructions))
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Work {
            read: self.read + other.read,
            products: self.products + other.products,
            copied: self.copied + other.copied,
            bytes: self.bytes + other.bytes,
            written: self.written + other.written,
            instructions: self.instructions + other.instructions,
        }
    }
}

/// The best path from a block to one that ends it, never backwards.
fn steady_path<'b>(
    blocks: &'b [Block],
    dominators: &Dominators,
    from: usize,
    within: &BTreeSet<usize>,
    ends: impl Fn(usize) -> bool,
) -> Vec<&'b Instruction> {
    // The best way to each block: its work, and the block before.
    let mut best: Vec<Option<(Work, usize)>> = vec![None; blocks.len()];
    best[from] = Some((Work::of(&blocks[from]), from));
    for &block in dominators.order.iter().filter(|block| within.contains(block)) {
        let Some((work, _)) = best[block] else { continue };
        for &next in &blocks[block].next {
            let back = dominators.dominates(next, block);
            if back || !within.contains(&next) {
                continue;
            }
            let own = Work::of(&blocks[next]);
            let longer = work + own;
            let better = best[next].is_none_or(|(known, before)| {
                // Both go on from the best way to where they part.
                let parted = best[dominators.common(before, block)];
                let common = own + parted.map(|(work, _)| work).unwrap_or_default();
                longer.rank(common) > known.rank(common)
            });
            if better {
                best[next] = Some((longer, block));
            }
        }
    }
    let reached = within.iter().filter(|&&block| ends(block));
    let nothing = Work::default();
    let last = reached.filter_map(|&block| Some((best[block]?.0.rank(nothing), block))).max();
    let mut path = Vec::new();
    let mut at = last.map(|(_, block)| block);
    while let Some(block) = at {
        path.push(block);
        at = best[block].map(|(_, before)| before).filter(|_| block != from);
    }
    path.iter().rev().flat_map(|&block| &blocks[block].instructions).collect()
}

/// The natural loops: those of one header are one loop.
fn loops(blocks: &[Block], dominators: &Dominators) -> Vec<Loop> {
    let mut before = vec![Vec::new(); blocks.len()];
    for &block in &dominators.order {
        blocks[block].next.iter().for_each(|&next| before[next].push(block));
    }
    let mut loops = Vec::new();
    for header in 0..blocks.len() {
        let latches = before[header].iter().filter(|&&b| dominators.dominates(header, b));
        let mut open: Vec<usize> = latches.copied().collect();
        if open.is_empty() {
            continue;
        }
        let mut found = BTreeSet::from([header]);
        while let Some(block) = open.pop() {
            if found.insert(block) {
                open.extend(&before[block]);
            }
        }
        loops.push(Loop { header, blocks: found });
    }
    loops
}

/// Which blocks all ways to a block lead through (Cooper, Harvey, Kennedy: "A simple, fast
/// dominance algorithm", 2001).
struct Dominators {
    /// Blocks that can be reached, each before those that can be reached only through it.
    order: Vec<usize>,
    /// Places in that order.
    place: Vec<usize>,
    /// The nearest dominator, by place.
    nearest: Vec<usize>,
}

impl Dominators {
    fn of(blocks: &[Block]) -> Self {
        let order = reverse_post_order(blocks);
        let mut place = vec![usize::MAX; blocks.len()];
        for (i, &block) in order.iter().enumerate() {
            place[block] = i;
        }
        let mut before = vec![Vec::new(); order.len()];
        for (i, &block) in order.iter().enumerate() {
            blocks[block].next.iter().for_each(|&next| before[place[next]].push(i));
        }
        let mut nearest = vec![usize::MAX; order.len()];
        nearest[0] = 0;
        let mut changed = true;
        while changed {
            changed = false;
            for i in 1..order.len() {
                let known = before[i].iter().copied().filter(|&b| nearest[b] != usize::MAX);
                let common = known.reduce(|a, b| meet(&nearest, a, b));
                if let Some(common) = common.filter(|&common| common != nearest[i]) {
                    nearest[i] = common;
                    changed = true;
                }
            }
        }
        Dominators { order, place, nearest }
    }

    /// The nearest block that all ways to both lead through.
    fn common(&self, a: usize, b: usize) -> usize {
        self.order[meet(&self.nearest, self.place[a], self.place[b])]
    }

    fn dominates(&self, a: usize, b: usize) -> bool {
        let (a, mut b) = (self.place[a], self.place[b]);
        if a == usize::MAX || b == usize::MAX {
            return false;
        }
        while b > a {
            b = self.nearest[b];
        }
        a == b
    }
}

fn meet(nearest: &[usize], mut a: usize, mut b: usize) -> usize {
    while a != b {
        if a > b {
            a = nearest[a];
        } else {
            b = nearest[b];
        }
    }
    a
}

fn reverse_post_order(blocks: &[Block]) -> Vec<usize> {
    let mut order = Vec::with_capacity(blocks.len());
    let mut seen = vec![false; blocks.len()];
    // Blocks under way, and how many of their successors were visited.
    let mut open = vec![(0, 0)];
    seen[0] = true;
    while let Some((block, visited)) = open.pop() {
        match blocks[block].next.get(visited) {
            None => order.push(block),
            Some(&next) => {
                open.push((block, visited + 1));
                if !std::mem::replace(&mut seen[next], true) {
                    open.push((next, 0));
                }
            }
        }
    }
    order.reverse();
    order
}

#[cfg(test)]
mod tests {
    use super::super::listing::blocks;
    use super::*;

    /// More than a way through most of the kernels here moves.
    const ALL: u64 = 1 << 10;

    fn names(listing: &str) -> Vec<String> {
        let text = format!(".text.k:\n{listing}");
        let blocks = blocks(&text, "k").unwrap();
        main_loop(&blocks, |bytes| bytes >= ALL).path.iter().map(|i| i.name.clone()).collect()
    }

    /// As in a matrix product: an outer loop, a branch around a copy, another way to copy, a loop
    /// of single bytes, and what is out of line at the end.
    #[test]
    fn the_steady_path_multiplies_and_copies_in_the_fewest_instructions() {
        let path = names(
            "
        /*0000*/                   LDC R1, c[0x0][0x37c] ;
.L_x_0:
        /*0010*/                   MOV R0, RZ ;
.L_x_1:
        /*0020*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0030*/               @P0 BRA `(.L_x_3) ;
        /*0040*/                   BRA.U UP0, `(.L_x_4) ;
        /*0050*/                   LDGSTS.E.BYPASS.128 [R1], desc[UR8][R2.64] ;
        /*0060*/                   BRA `(.L_x_3) ;
.L_x_4:
        /*0070*/                   LDG.E.128 R4, desc[UR8][R2.64] ;
        /*0078*/                   LDG.E.U8 R3, desc[UR8][R2.64] ;
        /*0080*/                   STS.U8 [R1], R3 ;
        /*0090*/               @P1 BRA `(.L_x_4) ;
.L_x_3:
        /*00a0*/                   OMMA.SF.16864.F32.E2M1.E2M1.UE4M3.4X R4, R8, R9, R4, R1, R2, URZ ;
        /*00b0*/                   BRA.DIV UR4, `(.L_x_9) ;
        /*00c0*/                   NOP ;
.L_x_8:
        /*00d0*/               @P0 BRA `(.L_x_1) ;
        /*00e0*/                   STG.E desc[UR8][R2.64], R4 ;
        /*00f0*/               @P2 BRA `(.L_x_0) ;
        /*0100*/                   EXIT ;
.L_x_9:
        /*0110*/                   WARPSYNC.COLLECTIVE R1, `(.L_x_8) ;
        /*0120*/                   BRA `(.L_x_8) ;
",
        );
        let expected = [
            "BAR.SYNC.DEFER_BLOCKING",
            "BRA",
            "BRA.U",
            "LDGSTS.E.BYPASS.128",
            "BRA",
            "OMMA.SF.16864.F32.E2M1.E2M1.UE4M3.4X",
            "BRA.DIV",
            "NOP",
            "BRA",
        ];
        assert_eq!(path, expected);
    }

    /// As in attention: tiles that nobody sees, and values that are multiplied with care.
    #[test]
    fn the_steady_path_does_what_has_to_be_done_and_no_more() {
        let path = names(
            "
.L_x_1:
        /*0000*/               @P0 BRA `(.L_x_3) ;
        /*0010*/                   LDSM.16.MT88.4 R8, [R2] ;
        /*0020*/              @!P1 BRA `(.L_x_2) ;
        /*0030*/                   HMMA.16816.F32.BF16 R20, R4, R8, R20 ;
.L_x_2:
        /*0040*/                   HMMA.16816.F32.BF16 R16, R4, R8, R16 ;
.L_x_3:
        /*0050*/               @P2 BRA `(.L_x_1) ;
        /*0060*/                   EXIT ;
",
        );
        assert_eq!(path, ["BRA", "LDSM.16.MT88.4", "BRA", "HMMA.16816.F32.BF16", "BRA"]);
    }

    /// As where attention rounds keys: what is not finite among them is looked at again.
    #[test]
    fn what_is_read_once_more_for_rare_values_is_left_out() {
        let path = names(
            "
.L_x_1:
        /*0000*/                   LDSM.16.MT88.4 R8, [R2] ;
        /*0010*/              @!P1 BRA `(.L_x_2) ;
        /*0020*/                   LDS.128 R12, [R3] ;
.L_x_2:
        /*0030*/                   HMMA.16816.F32.BF16 R16, R4, R8, R16 ;
        /*0040*/               @P2 BRA `(.L_x_1) ;
        /*0050*/                   EXIT ;
",
        );
        assert_eq!(path, ["LDSM.16.MT88.4", "BRA", "HMMA.16816.F32.BF16", "BRA"]);
    }

    /// As where attention decodes keys: of neighbours, the first is found, or else each, if it is there;
    /// what was read is put where it is multiplied, if there was something.
    #[test]
    fn what_is_to_be_moved_is_moved_in_the_simplest_way() {
        let path = names(
            "
.L_x_1:
        /*0000*/              @!P0 BRA `(.L_x_2) ;
        /*0010*/                   LDG.E R8, desc[UR8][R2.64] ;
        /*0020*/                   LDG.E R12, desc[UR8][R8.64] ;
        /*0030*/                   LDG.E R13, desc[UR8][R8.64+0x100] ;
        /*0040*/                   BRA `(.L_x_4) ;
.L_x_2:
        /*0050*/               @P1 BRA `(.L_x_3) ;
        /*0060*/                   LDG.E R8, desc[UR8][R2.64] ;
        /*0070*/                   LDG.E R12, desc[UR8][R8.64] ;
.L_x_3:
        /*0080*/               @P1 BRA `(.L_x_4) ;
        /*0090*/                   LDG.E R8, desc[UR8][R2.64+0x8] ;
        /*00a0*/                   LDG.E R13, desc[UR8][R8.64] ;
.L_x_4:
        /*00b0*/                   HMMA.16816.F32.BF16 R16, R4, R8, R16 ;
        /*00c0*/               @P3 BRA `(.L_x_6) ;
        /*00d0*/               @P4 BRA `(.L_x_5) ;
        /*00e0*/                   FMUL R12, R12, R14 ;
.L_x_5:
        /*00f0*/                   STS.64 [R3], R12 ;
.L_x_6:
        /*0100*/               @P2 BRA `(.L_x_1) ;
        /*0110*/                   EXIT ;
",
        );
        let mut expected = vec!["BRA", "LDG.E", "LDG.E", "LDG.E", "BRA"];
        expected.extend(["HMMA.16816.F32.BF16", "BRA", "BRA", "STS.64", "BRA"]);
        assert_eq!(path, expected);
    }

    #[test]
    fn without_a_loop_the_kernel_is_one_path() {
        let path = names(
            "
        /*0000*/               @P0 EXIT ;
        /*0010*/                   LDG.E R3, desc[UR8][R2.64] ;
        /*0020*/                   EXIT ;
.L_x_1:
        /*0030*/                   BRA `(.L_x_1);
",
        );
        assert_eq!(path, ["EXIT", "LDG.E", "EXIT"]);
    }

    /// As where rows are quantised: a loop clears what is behind them.
    #[test]
    fn a_kernel_that_moves_all_in_one_go_is_one_path() {
        let path = names(
            "
        /*0000*/                   LDG.E.128 R4, desc[UR8][R2.64] ;
        /*0010*/                   STG.E.128 desc[UR8][R2.64], R4 ;
        /*0020*/               @P0 BRA `(.L_x_2) ;
.L_x_1:
        /*0030*/                   STG.E.U8 desc[UR8][R2.64], RZ ;
        /*0040*/               @P1 BRA `(.L_x_1) ;
.L_x_2:
        /*0050*/                   EXIT ;
",
        );
        assert_eq!(path, ["LDG.E.128", "STG.E.128", "BRA", "STG.E.U8", "BRA", "EXIT"]);
    }

    #[test]
    fn without_products_the_loop_that_moves_the_most_is_the_main_one() {
        let path = names(
            "
        /*0000*/                   MOV R0, RZ ;
.L_x_1:
        /*0010*/                   LDG.E R3, desc[UR8][R2.64] ;
        /*0020*/               @P0 BRA `(.L_x_1) ;
.L_x_2:
        /*0030*/                   LDG.E.128 R4, desc[UR8][R2.64] ;
        /*0040*/                   FADD R3, R3, R4 ;
        /*0050*/               @P0 BRA `(.L_x_2) ;
.L_x_3:
        /*0060*/                   STG.E.64 desc[UR8][R2.64], R4 ;
.L_x_4:
        /*0070*/                   FADD R3, R3, R4 ;
        /*0080*/               @P0 BRA `(.L_x_4) ;
        /*0090*/               @P0 BRA `(.L_x_3) ;
        /*00a0*/                   EXIT ;
",
        );
        assert_eq!(path, ["LDG.E.128", "FADD", "BRA"]);
    }
}
