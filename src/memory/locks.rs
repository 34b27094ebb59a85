//! All buffers of one operation, locked together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::access::{Access, Held, User};
use super::buffer::Buffer;
use super::work::{Earlier, Fence, Recording};
use crate::error::{Error, Result};

/// All buffers of one operation, locked together.
///
/// Locks are taken in the order of buffer identity, so that operations on several threads never
/// wait for each other in a circle.
#[derive(Debug)]
pub struct Locks<'a> {
    held: Vec<Locked<'a>>,
    /// The last device work of the operation.
    work: Mutex<Work>,
}

#[derive(Default)]
struct Work(Option<Fence>);

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "device work" } else { "none" })
    }
}

#[derive(Debug)]
struct Locked<'a> {
    share: Share<'a>,
    access: Access,
    /// Whether its bytes were given out to be written.
    taken: AtomicBool,
}

/// Who gives the access back.
#[derive(Debug)]
enum Share<'a> {
    Own(Held<'a>),
    /// The locks that these are a part of.
    Lent(&'a Held<'a>),
}

impl<'a> Locked<'a> {
    fn new(share: Share<'a>, access: Access) -> Self {
        Locked { share, access, taken: AtomicBool::new(false) }
    }

    fn held(&self) -> &Held<'a> {
        match &self.share {
            Share::Own(held) => held,
            Share::Lent(held) => held,
        }
    }

    fn buffer(&self) -> &'a Buffer {
        self.held().buffer
    }
}

/// What a kernel that runs on a device needs to know of a locked buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceUse<'a> {
    pub buffer: &'a Buffer,
    #[cfg_attr(not(feature = "emulator"), allow(dead_code, reason = "GPUs do not ask"))]
    pub access: Access,
}

impl<'a> Locks<'a> {
    /// Locks every buffer once, for writing if any use of it writes, and waits for device work
    /// that conflicts.
    ///
    /// # Errors
    /// [`Error::Busy`] when a host guard conflicts or the memory is read-only; [`Error::Layout`]
    /// when a buffer that is written appears more than once; [`Error::Memory`] for memory that the
    /// host can not touch; and what went wrong with the work.
    pub fn acquire(
        op: &'static str,
        buffers: impl IntoIterator<Item = (&'a Buffer, Access)>,
    ) -> Result<Self> {
        let locks = Self::hold(Self::in_order(op, buffers)?, None)?;
        for locked in &locks.held {
            locked.buffer().host_ptr()?;
            locked.held().wait()?;
        }
        Ok(locks)
    }

    /// The buffers of an operation in the order in which they are locked, each once.
    ///
    /// # Errors
    /// [`Error::Layout`] when a buffer that is written appears more than once.
    pub(crate) fn in_order(
        op: &'static str,
        buffers: impl IntoIterator<Item = (&'a Buffer, Access)>,
    ) -> Result<Vec<(&'a Buffer, Access)>> {
        let mut uses: Vec<(&Buffer, Access)> = buffers.into_iter().collect();
        uses.sort_by_key(|(buffer, _)| buffer.id());
        for pair in uses.windows(2) {
            let ((a, a_access), (b, b_access)) = (pair[0], pair[1]);
            if a.id() == b.id() && (a_access == Access::Write || b_access == Access::Write) {
                return Err(Error::layout(
                    op,
                    "output",
                    format!(
                        "it lies in buffer `{}`, which is also another operand; \
                         give the output memory of its own",
                        a.label()
                    ),
                ));
            }
        }
        uses.dedup_by_key(|(buffer, _)| buffer.id());
        Ok(uses)
    }

    /// Locks buffers that are in the order of [`Locks::in_order`], for operations that are run or
    /// recorded: waits for device work only when the host asks for bytes.
    pub(crate) fn hold(
        uses: impl IntoIterator<Item = (&'a Buffer, Access)>,
        recording: Option<&Arc<Recording>>,
    ) -> Result<Self> {
        let uses = uses.into_iter();
        let mut held = Vec::with_capacity(uses.size_hint().0);
        for (buffer, access) in uses {
            let user = User::Op(recording.cloned());
            let own = Share::Own(Held::acquire(buffer, user, access)?);
            held.push(Locked::new(own, access));
        }
        Ok(Locks { held, work: Mutex::default() })
    }

    /// Some of the locked buffers, by their places in order, for one of several operations that run
    /// one after the other on the host: for writing where the operation writes and these are held
    /// so. There is no other part meanwhile, so what an operation reads no other one writes.
    pub(crate) fn part(&mut self, uses: &[(usize, Access)]) -> Locks<'_> {
        let lent = |&(place, access): &(usize, Access)| {
            let whole = &self.held[place];
            let access = if whole.access == Access::Read { Access::Read } else { access };
            Locked::new(Share::Lent(whole.held()), access)
        };
        Locks { held: uses.iter().map(lent).collect(), work: Mutex::default() }
    }

    /// The bytes of the locked buffers: shared for readers, exclusive for writers, once each.
    pub fn bytes(&mut self) -> impl Iterator<Item = (u64, BufferBytes<'_>)> {
        let bytes = |locked: &Locked<'a>| {
            let (id, access) = (locked.buffer().id(), locked.access);
            // `acquire` found that the host may touch all of them.
            let start = locked.buffer().host_ptr().ok()?;
            let len = locked.buffer().len();
            // Valid for `len` bytes while the buffer lives, and the lock outlives
            // the borrow of `self`. Readers: the lock keeps writers out. Writers: each buffer is
            // held once, exclusively, and the borrow of `self` is mutable, so no second slice of
            // it exists.
            let bytes = match access {
                Access::Read => {
                    // SAFETY: as above, for readers.
                    let bytes = unsafe { std::slice::from_raw_parts(start, len) };
                    BufferBytes::Read(bytes)
                }
                Access::Write => {
                    // SAFETY: as above, for writers.
                    let bytes = unsafe { std::slice::from_raw_parts_mut(start, len) };
                    BufferBytes::Write(bytes)
                }
            };
            Some((id, bytes))
        };
        self.held.iter().filter_map(bytes).collect::<Vec<_>>().into_iter()
    }

    fn find(&self, buffer: &Buffer) -> Option<&Locked<'a>> {
        let found = self.held.binary_search_by_key(&buffer.id(), |locked| locked.buffer().id());
        found.ok().map(|at| &self.held[at])
    }

    /// How the operation uses a buffer; `None` for one that is not locked.
    pub(crate) fn access(&self, buffer: &Buffer) -> Option<Access> {
        self.find(buffer).map(|locked| locked.access)
    }

    /// The bytes of a buffer that is locked for reading, once what writes them is done; `None` for
    /// any other.
    pub(crate) fn read(&self, buffer: &Buffer) -> Result<Option<&[u8]>> {
        let Some(locked) = self.find(buffer).filter(|l| l.access == Access::Read) else {
            return Ok(None);
        };
        let start = buffer.host_ptr()?;
        locked.held().wait()?;
        // SAFETY: valid for `len` bytes while the buffer lives, which the lock outlives; the lock
        // keeps other writers out, and what was under way has ended.
        Ok(Some(unsafe { std::slice::from_raw_parts(start, buffer.len()) }))
    }

    /// Copies bytes of a buffer that is locked for reading, whatever kind of memory it is, once what
    /// writes them is done: whether it is locked so.
    pub(crate) fn copy(&self, buffer: &Buffer, offset: usize, to: &mut [u8]) -> Result<bool> {
        let Some(locked) = self.find(buffer).filter(|l| l.access == Access::Read) else {
            return Ok(false);
        };
        locked.held().wait()?;
        buffer.copy_held(offset, to).map(|()| true)
    }

    /// The bytes of a buffer that is locked for writing, once what uses them is done; `None` for
    /// any other, and the second time.
    #[expect(clippy::mut_from_ref, reason = "given out once, which `taken` sees to")]
    pub(crate) fn write(&self, buffer: &Buffer) -> Result<Option<&mut [u8]>> {
        let Some(locked) = self.find(buffer).filter(|l| l.access == Access::Write) else {
            return Ok(None);
        };
        let start = buffer.host_ptr()?;
        locked.held().wait()?;
        if locked.taken.swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        // SAFETY: valid for `len` bytes while the buffer lives, which the lock outlives; the lock
        // keeps everybody else out, what was under way has ended, and this is the only slice,
        // because it is given out once.
        Ok(Some(unsafe { std::slice::from_raw_parts_mut(start, buffer.len()) }))
    }

    /// Gives a buffer to device work; `None` for one that is not locked, and for one that is
    /// written and was given out before.
    pub(crate) fn device_use(&self, buffer: &Buffer) -> Option<DeviceUse<'a>> {
        let locked = self.find(buffer)?;
        let access = locked.access;
        let again = access == Access::Write && locked.taken.swap(true, Ordering::AcqRel);
        (!again).then_some(DeviceUse { buffer: locked.buffer(), access })
    }

    /// Whether they are of an operation that is recorded.
    pub(crate) fn are_recorded(&self) -> bool {
        self.held.iter().any(|locked| locked.held().is_recorded())
    }

    /// The locked buffers.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &'a Buffer> + '_ {
        self.held.iter().map(Locked::buffer)
    }

    /// Device work that the operation has to come after.
    pub(crate) fn earlier(&self) -> Vec<Earlier> {
        self.held.iter().flat_map(|locked| locked.held().earlier()).collect()
    }

    /// Notes that device work of the operation goes on when these locks are gone. The buffers
    /// count as used by it until it has ended.
    pub(crate) fn continue_as(&self, work: Fence) {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(work);
    }
}

impl Drop for Locks<'_> {
    fn drop(&mut self) {
        let work = self.work.get_mut().unwrap_or_else(PoisonError::into_inner);
        for locked in &mut self.held {
            if let Share::Own(held) = &mut locked.share {
                held.work = work.0.clone();
            }
        }
    }
}

/// The bytes of a locked buffer.
#[derive(Debug)]
pub enum BufferBytes<'a> {
    /// Locked for reading.
    Read(&'a [u8]),
    /// Locked for writing.
    Write(&'a mut [u8]),
}
