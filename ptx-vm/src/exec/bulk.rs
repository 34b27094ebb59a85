//! Bulk copies: the tensor memory accelerator.

use super::access::Place;
use super::block::Env;
use super::warp::{Raise, Step, Warp};
use crate::check::shared::{Actor, CHUNK};
use crate::error::{FaultKind, Space};
use crate::lower::ops::{Access, Addr, Slot};
use crate::tensor_map::{TENSOR_MAP_BYTES, TensorMap};

/// A bulk operation.
#[derive(Debug, Clone)]
pub(crate) struct BulkOp {
    pub kind: BulkKind,
}

/// The kinds of bulk operations.
#[derive(Debug, Clone)]
pub(crate) enum BulkKind {
    Load {
        dst: Addr,
        src: Addr,
        bytes: Slot,
        mbar: Addr,
    },
    Store {
        dst: Addr,
        src: Addr,
        bytes: Slot,
    },
    TensorLoad {
        dst: Addr,
        map: Box<Access>,
        coordinates: Vec<Slot>,
        mbar: Addr,
    },
    TensorStore {
        src: Addr,
        map: Box<Access>,
        coordinates: Vec<Slot>,
    },
    Commit,
    /// Stores are made at once; what they read may be overwritten only after the wait.
    Wait {
        /// So many of the latest groups may still be pending.
        pending: u32,
    },
}

impl Warp {
    pub(super) fn bulk(&mut self, env: &mut Env<'_>, op: &BulkOp, mask: u32) -> Step {
        let addr = |w: &Warp, a: Addr| w.addresses(a, mask, 0);
        env.progress += 1;
        match &op.kind {
            BulkKind::Commit => {
                self.stores.iter_mut().enumerate().for_each(|(lane, s)| {
                    if mask >> lane & 1 == 1 {
                        s.commit();
                    }
                });
                Ok(())
            }
            BulkKind::Wait { pending } => {
                for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
                    for (at, bytes) in self.stores[lane].finish(*pending as usize) {
                        for chunk in 0..u64::from(bytes) / CHUNK {
                            let at = at + chunk * CHUNK;
                            env.shared.end_use(at, self.id, env.line, &env.clocks);
                        }
                    }
                }
                Ok(())
            }
            BulkKind::Load { dst, src, bytes, mbar } => {
                let (to, from, bar) = (addr(self, *dst)?, addr(self, *src)?, addr(self, *mbar)?);
                let sizes = *self.read(*bytes, mask)?;
                for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
                    let result = (|| {
                        let n = bulk_size(sizes[lane])?;
                        let (to, from) =
                            (Place::of(Space::Shared, to[lane]), Place::Device(from[lane]));
                        to.aligned(16, "bulk write")?;
                        from.aligned(16, "bulk read")?;
                        let mut data = vec![0u8; n as usize];
                        for (i, chunk) in data.chunks_mut(8).enumerate() {
                            let v = self.get(env, from.plus(8 * i as u64), 8, lane, true)?;
                            chunk.copy_from_slice(&v.to_le_bytes());
                        }
                        self.deliver(env, to, &data, bar[lane], n, lane)
                    })();
                    result.map_err(Raise::at(lane))?;
                }
                Ok(())
            }
            BulkKind::Store { dst, src, bytes } => {
                let (to, from) = (addr(self, *dst)?, addr(self, *src)?);
                let sizes = *self.read(*bytes, mask)?;
                for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
                    let result = (|| {
                        let n = bulk_size(sizes[lane])?;
                        let (to, from) =
                            (Place::Device(to[lane]), Place::of(Space::Shared, from[lane]));
                        to.aligned(16, "bulk write")?;
                        from.aligned(16, "bulk read")?;
                        if let Place::Shared(at) = from {
                            env.shared.note_async_read(at, n, self.id, &env.clocks)?;
                        }
                        for i in 0..u64::from(n) / 8 {
                            let v = self.get(env, from.plus(8 * i), 8, lane, true)?;
                            self.set(env, to.plus(8 * i), 8, v, lane, true)?;
                        }
                        self.keep_source(env, from, n, lane);
                        Ok(())
                    })();
                    result.map_err(Raise::at(lane))?;
                }
                Ok(())
            }
            BulkKind::TensorLoad { dst, map, coordinates, mbar } => {
                let (to, bar) = (addr(self, *dst)?, addr(self, *mbar)?);
                for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
                    let at = self.coordinates(coordinates, lane)?;
                    let result = self.tensor_map(env, map, lane).and_then(|m| {
                        let place = Place::of(Space::Shared, to[lane]);
                        place.aligned(m.shared_align(), "tensor write")?;
                        let data = m.gather(&at, |a, n| self.bytes(env, a, n, lane))?;
                        let n = data.len() as u32;
                        let Place::Shared(base) = place else { return Ok(()) };
                        let data = m.swizzle(base, &data);
                        self.deliver(env, place, &data, bar[lane], n, lane)
                    });
                    result.map_err(Raise::at(lane))?;
                }
                Ok(())
            }
            BulkKind::TensorStore { src, map, coordinates } => {
                let from = addr(self, *src)?;
                for lane in (0..32).filter(|l| mask >> l & 1 == 1) {
                    let at = self.coordinates(coordinates, lane)?;
                    let result = self.tensor_map(env, map, lane).and_then(|m| {
                        let place = Place::of(Space::Shared, from[lane]);
                        place.aligned(m.shared_align(), "tensor read")?;
                        let Place::Shared(base) = place else { return Ok(()) };
                        let mut data = vec![0u8; m.box_bytes()];
                        env.shared.note_async_read(
                            base,
                            data.len() as u32,
                            self.id,
                            &env.clocks,
                        )?;
                        for (i, b) in data.iter_mut().enumerate() {
                            *b = self.get(env, place.plus(i as u64), 1, lane, true)? as u8;
                        }
                        self.keep_source(env, place, data.len() as u32, lane);
                        let data = m.unswizzle(base, &data);
                        m.scatter(&at, &data, |a, part| {
                            for (i, b) in part.iter().enumerate() {
                                let to = Place::Device(a).plus(i as u64);
                                self.set(env, to, 1, u64::from(*b), lane, true)?;
                            }
                            Ok(())
                        })
                    });
                    result.map_err(Raise::at(lane))?;
                }
                Ok(())
            }
        }
    }

    fn coordinates(&self, slots: &[Slot], lane: usize) -> Step<Vec<i32>> {
        slots.iter().map(|s| Ok(self.read(*s, 1 << lane)?[lane] as u32 as i32)).collect()
    }

    fn bytes(
        &self,
        env: &mut Env<'_>,
        address: u64,
        out: &mut [u8],
        lane: usize,
    ) -> Result<(), FaultKind> {
        for (i, b) in out.iter_mut().enumerate() {
            *b = self.get(env, Place::Device(address).plus(i as u64), 1, lane, true)? as u8;
        }
        Ok(())
    }

    fn tensor_map(
        &self,
        env: &mut Env<'_>,
        access: &Access,
        lane: usize,
    ) -> Result<TensorMap, FaultKind> {
        let address = self.addresses(access.addr, 1 << lane, 0).map_err(|r| r.kind)?[lane];
        // A kernel's parameter by its plain offset, or any generic address.
        let place = if address < u64::from(u32::MAX) {
            Place::Param(address)
        } else {
            Place::of(Space::Generic, address)
        };
        place.aligned(64, "tensor map read")?;
        let mut raw = [0u8; TENSOR_MAP_BYTES];
        for (i, chunk) in raw.chunks_mut(8).enumerate() {
            let v = self.get(env, place.plus(8 * i as u64), 8, lane, true)?;
            chunk.copy_from_slice(&v.to_le_bytes());
        }
        TensorMap::decode(&raw).ok_or_else(|| {
            FaultKind::InvalidOperand("the address does not hold a tensor map".to_string())
        })
    }

    /// The bytes may not be overwritten until the store that reads them is waited for.
    fn keep_source(&mut self, env: &mut Env<'_>, from: Place, bytes: u32, lane: usize) {
        if let Place::Shared(at) = from {
            let actor = Actor { warp: self.id, lane, line: env.line };
            env.shared.begin_copy_from(at, bytes, actor);
            self.stores[lane].open.push((at, bytes));
        }
    }

    /// Puts data in shared memory on behalf of an mbarrier.
    fn deliver(
        &mut self,
        env: &mut Env<'_>,
        to: Place,
        data: &[u8],
        mbar: u64,
        bytes: u32,
        lane: usize,
    ) -> Result<(), FaultKind> {
        let (Place::Shared(at), Place::Shared(bar)) = (to, Place::of(Space::Shared, mbar)) else {
            return Ok(());
        };
        if !env.mbarriers.contains_key(&bar) {
            let message = format!("the mbarrier at {bar:#x} is not initialised");
            return Err(FaultKind::BarrierMisuse(message));
        }
        let actor = Actor { warp: self.id, lane, line: env.line };
        let id = env.shared.start_copy(at, data, actor, &env.clocks)?;
        if let Some(m) = env.mbarriers.get_mut(&bar) {
            m.copies.push((id, bytes));
        }
        Ok(())
    }
}

fn bulk_size(n: u64) -> Result<u32, FaultKind> {
    if n == 0 || !n.is_multiple_of(16) || n > 1 << 20 {
        let message = format!("a bulk copy of {n} bytes: the size must be a multiple of 16");
        return Err(FaultKind::InvalidOperand(message));
    }
    Ok(n as u32)
}
