//! Who is reading and writing a buffer, and the guards that say so.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::buffer::Buffer;
use crate::error::{Error, Result};

/// How an operation uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Writes it (and may read what it wrote).
    Write,
}

/// Counts of the current users of a buffer.
#[derive(Debug, Default)]
struct Users {
    host_readers: usize,
    host_writer: bool,
    ops_reading: usize,
    op_writing: bool,
    /// Operations that wait for others to finish.
    waiting: usize,
}

/// The reader/writer record of one buffer.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    users: Mutex<Users>,
    op_done: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Host,
    Op,
}

impl Tracker {
    fn users(&self) -> MutexGuard<'_, Users> {
        // Counts are updated in single steps, so a panic elsewhere leaves them right.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acquire(&self, label: &str, user: User, access: Access) -> Result<()> {
        let mut users = self.users();
        loop {
            let held_by_host = match access {
                Access::Read => users.host_writer,
                Access::Write => users.host_writer || users.host_readers > 0,
            };
            if held_by_host {
                return Err(busy(label, user, access, users.host_writer));
            }
            let held_by_op = match access {
                Access::Read => users.op_writing,
                Access::Write => users.op_writing || users.ops_reading > 0,
            };
            if !held_by_op {
                break;
            }
            users.waiting += 1;
            users = self.op_done.wait(users).unwrap_or_else(PoisonError::into_inner);
            users.waiting -= 1;
        }
        match (user, access) {
            (User::Host, Access::Read) => users.host_readers += 1,
            (User::Host, Access::Write) => users.host_writer = true,
            (User::Op, Access::Read) => users.ops_reading += 1,
            (User::Op, Access::Write) => users.op_writing = true,
        }
        Ok(())
    }

    fn release(&self, user: User, access: Access) {
        let mut users = self.users();
        match (user, access) {
            (User::Host, Access::Read) => users.host_readers -= 1,
            (User::Host, Access::Write) => users.host_writer = false,
            (User::Op, Access::Read) => users.ops_reading -= 1,
            (User::Op, Access::Write) => users.op_writing = false,
        }
        // A notification is a system call, whether anybody waits or not.
        if user == User::Op && users.waiting > 0 {
            self.op_done.notify_all();
        }
    }
}

fn busy(label: &str, user: User, access: Access, writer: bool) -> Error {
    let who = match user {
        User::Host => "a host guard",
        User::Op => "an operation",
    };
    let wanted = match access {
        Access::Read => "read",
        Access::Write => "write",
    };
    let held = if writer { "writing" } else { "reading" };
    Error::Busy {
        label: label.to_owned(),
        problem: format!(
            "{who} wants to {wanted} it while a host guard is {held} it; drop that guard first"
        ),
    }
}

/// A share of a buffer's tracker, given back on drop.
#[derive(Debug)]
struct Held<'a> {
    buffer: &'a Buffer,
    user: User,
    access: Access,
}

impl<'a> Held<'a> {
    fn acquire(buffer: &'a Buffer, user: User, access: Access) -> Result<Self> {
        if access == Access::Write && !buffer.kind().host_writable() {
            return Err(Error::Busy {
                label: buffer.label().to_owned(),
                problem: format!(
                    "it is {} memory, which is read-only here; write into a copy",
                    buffer.kind()
                ),
            });
        }
        buffer.tracker().acquire(buffer.label(), user, access)?;
        Ok(Held { buffer, user, access })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.buffer.tracker().release(self.user, self.access);
    }
}

/// Shared host access to a buffer's bytes, held off from writers while it lives.
#[derive(Debug)]
pub struct ReadGuard<'a>(Held<'a>);

impl<'a> ReadGuard<'a> {
    pub(super) fn new(buffer: &'a Buffer) -> Result<Self> {
        Held::acquire(buffer, User::Host, Access::Read).map(ReadGuard)
    }
}

impl Deref for ReadGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let buffer = self.0.buffer;
        // SAFETY: the memory is valid and initialised for `len` bytes as long as the buffer
        // lives, and the tracker keeps writers out while this guard is held.
        unsafe { std::slice::from_raw_parts(buffer.as_ptr(), buffer.len()) }
    }
}

/// Exclusive host access to a buffer's bytes.
#[derive(Debug)]
pub struct WriteGuard<'a>(Held<'a>);

impl<'a> WriteGuard<'a> {
    pub(super) fn new(buffer: &'a Buffer) -> Result<Self> {
        Held::acquire(buffer, User::Host, Access::Write).map(WriteGuard)
    }
}

impl Deref for WriteGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let buffer = self.0.buffer;
        // SAFETY: as in `ReadGuard`; the tracker admits no other user beside this one.
        unsafe { std::slice::from_raw_parts(buffer.as_ptr(), buffer.len()) }
    }
}

impl DerefMut for WriteGuard<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let buffer = self.0.buffer;
        // SAFETY: the memory is writable (checked when acquiring), valid for `len` bytes, and
        // the tracker admits no other user beside this one, which is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(buffer.as_ptr(), buffer.len()) }
    }
}

/// All buffers of one operation, locked together.
///
/// Locks are taken in the order of buffer identity, so that operations on several threads never
/// wait for each other in a circle.
#[derive(Debug)]
pub struct Locks<'a> {
    held: Vec<Held<'a>>,
}

impl<'a> Locks<'a> {
    /// Locks every buffer once, for writing if any use of it writes.
    ///
    /// # Errors
    /// [`Error::Busy`] when a host guard conflicts or the memory is read-only; [`Error::Layout`]
    /// when a buffer that is written appears more than once.
    pub fn acquire(
        op: &'static str,
        buffers: impl IntoIterator<Item = (&'a Buffer, Access)>,
    ) -> Result<Self> {
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
        let mut held = Vec::with_capacity(uses.len());
        for (buffer, access) in uses {
            held.push(Held::acquire(buffer, User::Op, access)?);
        }
        Ok(Locks { held })
    }

    /// The bytes of the locked buffers: shared for readers, exclusive for writers, once each.
    pub fn bytes(&mut self) -> impl Iterator<Item = (u64, BufferBytes<'_>)> {
        self.held.iter_mut().map(|held| {
            let (ptr, len) = (held.buffer.as_ptr(), held.buffer.len());
            // Valid for `len` bytes while the buffer lives, and the lock outlives
            // the borrow of `self`. Readers: the lock keeps writers out. Writers: each buffer is
            // held once, exclusively, and the borrow of `self` is mutable, so no second slice of
            // it exists.
            let bytes = match held.access {
                Access::Read => {
                    // SAFETY: as above, for readers.
                    let bytes = unsafe { std::slice::from_raw_parts(ptr, len) };
                    BufferBytes::Read(bytes)
                }
                Access::Write => {
                    // SAFETY: as above, for writers.
                    let bytes = unsafe { std::slice::from_raw_parts_mut(ptr, len) };
                    BufferBytes::Write(bytes)
                }
            };
            (held.buffer.id(), bytes)
        })
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
