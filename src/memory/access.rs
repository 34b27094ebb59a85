//! Who is reading and writing a buffer, and the guards that say so.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::buffer::Buffer;
use super::work::{Earlier, Fence, Recording};
use crate::caps::MemoryKind;
use crate::error::{Error, Result};

/// How an operation uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only reads it.
    Read,
    /// Writes it (and may read what it wrote).
    Write,
}

/// The current users of a buffer.
#[derive(Default)]
struct Users {
    host_readers: usize,
    host_writer: bool,
    ops_reading: usize,
    op_writing: bool,
    /// Operations that wait for others to finish.
    waiting: usize,
    /// Device work that reads it.
    reads: Vec<Fence>,
    /// Device work that writes it; what failed stays until the host writes.
    writes: Vec<Fence>,
    /// What is recorded and not run.
    recorded: Vec<(Arc<Recording>, Access)>,
}

impl Users {
    /// Device work that such an access has to come after.
    fn earlier(&self, access: Access) -> impl Iterator<Item = Earlier> + '_ {
        let reads = if access == Access::Write { &self.reads[..] } else { &[] };
        let reads = reads.iter().map(|work| (work.clone(), Access::Read));
        self.writes.iter().map(|work| (work.clone(), Access::Write)).chain(reads)
    }

    /// Forgets work that ended, but for writes that failed.
    fn prune(&mut self) {
        self.reads.retain(|work| !work.is_done());
        self.writes.retain(|work| !work.is_done() || work.wait().is_err());
        self.recorded.retain(|(recording, _)| recording.is_open());
    }

    /// Notes work that was ordered after all that is [`Users::earlier`].
    fn add(&mut self, work: &Fence, access: Access) {
        match access {
            Access::Read => {
                self.reads.retain(|other| !other.is_done() && other.stream() != work.stream());
                self.reads.push(work.clone());
            }
            Access::Write => {
                self.reads.clear();
                self.writes = vec![work.clone()];
            }
        }
    }
}

/// The reader/writer record of one buffer.
#[derive(Default)]
pub(super) struct Tracker {
    users: Mutex<Users>,
    op_done: Condvar,
}

/// Who wants a buffer.
#[derive(Clone, Debug)]
pub(super) enum User {
    /// The host, which waits for device work.
    Host,
    /// An operation, which sees to it that it comes after device work. It may be one that is
    /// recorded.
    Op(Option<Arc<Recording>>),
}

impl Tracker {
    fn users(&self) -> MutexGuard<'_, Users> {
        // Updated in single steps, so a panic elsewhere leaves it right.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the access when no other use conflicts: whether device work still goes on that it
    /// has to come after.
    fn acquire(&self, label: &str, user: &User, access: Access) -> Result<bool> {
        let mut users = self.users();
        loop {
            let held_by_host = match access {
                Access::Read => users.host_writer,
                Access::Write => users.host_writer || users.host_readers > 0,
            };
            if held_by_host {
                return Err(busy(label, user, access, users.host_writer));
            }
            users.prune();
            let own = match user {
                User::Op(Some(recording)) => Some(recording),
                _ => None,
            };
            let elsewhere = |(recording, recorded): &(Arc<Recording>, Access)| {
                let conflicts = access == Access::Write || *recorded == Access::Write;
                conflicts && !own.is_some_and(|own| Arc::ptr_eq(own, recording))
            };
            if users.recorded.iter().any(elsewhere) {
                return Err(Error::Busy {
                    label: label.to_owned(),
                    problem: "it is used by operations that are being recorded, which have not \
                              run; use it when the recording is done"
                        .to_owned(),
                });
            }
            let held_by_op = match access {
                Access::Read => users.op_writing,
                Access::Write => users.op_writing || users.ops_reading > 0,
            };
            if held_by_op {
                users.waiting += 1;
                users = self.op_done.wait(users).unwrap_or_else(PoisonError::into_inner);
                users.waiting -= 1;
                continue;
            }
            let earlier = match user {
                User::Host => users.earlier(access).next(),
                User::Op(_) => None,
            };
            let Some((work, effect)) = earlier else { break };
            drop(users);
            let result = work.wait();
            users = self.users();
            if effect == Access::Write && result.is_err() {
                if access == Access::Write {
                    // Reported now; what the host writes is right again.
                    users.writes.retain(|other| !Arc::ptr_eq(other, &work));
                }
                return result.map(|()| false);
            }
        }
        match (user, access) {
            (User::Host, Access::Read) => users.host_readers += 1,
            (User::Host, Access::Write) => users.host_writer = true,
            (User::Op(_), Access::Read) => users.ops_reading += 1,
            (User::Op(_), Access::Write) => users.op_writing = true,
        }
        Ok(users.earlier(access).next().is_some())
    }

    fn release(&self, user: &User, access: Access, work: Option<&Fence>) {
        let mut users = self.users();
        match (user, access) {
            (User::Host, Access::Read) => users.host_readers -= 1,
            (User::Host, Access::Write) => users.host_writer = false,
            (User::Op(_), Access::Read) => users.ops_reading -= 1,
            (User::Op(_), Access::Write) => users.op_writing = false,
        }
        if let User::Op(recording) = user {
            if let Some(work) = work {
                users.add(work, access);
            }
            if let Some(recording) = recording {
                users.recorded.push((recording.clone(), access));
            }
            // A notification is a system call, whether anybody waits or not.
            if users.waiting > 0 {
                self.op_done.notify_all();
            }
        }
    }
}

fn busy(label: &str, user: &User, access: Access, writer: bool) -> Error {
    let who = match user {
        User::Host => "a host guard",
        User::Op(_) => "an operation",
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
pub(super) struct Held<'a> {
    pub(super) buffer: &'a Buffer,
    user: User,
    pub(super) access: Access,
    /// Whether there was device work that it has to come after. None is added while it is held.
    follows: bool,
    /// Device work that goes on with it.
    pub(super) work: Option<Fence>,
}

impl<'a> Held<'a> {
    pub(super) fn acquire(buffer: &'a Buffer, user: User, access: Access) -> Result<Self> {
        if access == Access::Write && buffer.kind() == MemoryKind::Mapped {
            return Err(Error::Busy {
                label: buffer.label().to_owned(),
                problem: format!(
                    "it is {} memory, which is read-only here; write into a copy",
                    buffer.kind()
                ),
            });
        }
        let follows = buffer.tracker().acquire(buffer.label(), &user, access)?;
        Ok(Held { buffer, user, access, follows, work: None })
    }

    /// Device work that this use has to come after.
    pub(super) fn earlier(&self) -> Vec<Earlier> {
        self.buffer.tracker().users().earlier(self.access).collect()
    }

    pub(super) fn is_recorded(&self) -> bool {
        matches!(self.user, User::Op(Some(_)))
    }

    /// Waits for that work, and fails where what it should have written is not there.
    pub(super) fn wait(&self) -> Result<()> {
        if self.is_recorded() {
            return Err(Error::Busy {
                label: self.buffer.label().to_owned(),
                problem: "the host would read or write it in an operation that is being recorded; \
                          run the operation outside the recording, or by a kernel of the device"
                    .to_owned(),
            });
        }
        if !self.follows {
            return Ok(());
        }
        for (work, effect) in self.earlier() {
            let result = work.wait();
            if effect == Access::Write {
                result?;
            }
        }
        Ok(())
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.buffer.tracker().release(&self.user, self.access, self.work.as_ref());
    }
}

impl fmt::Debug for Held<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?} by {:?}", self.access, self.buffer, self.user)
    }
}

/// Shared host access to a buffer's bytes, held off from writers while it lives.
#[derive(Debug)]
pub struct ReadGuard<'a> {
    held: Held<'a>,
    start: *const u8,
}

impl<'a> ReadGuard<'a> {
    pub(super) fn new(buffer: &'a Buffer) -> Result<Self> {
        let start = buffer.host_ptr()?;
        Ok(ReadGuard { held: Held::acquire(buffer, User::Host, Access::Read)?, start })
    }
}

impl Deref for ReadGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory is valid and initialised for `len` bytes as long as the buffer
        // lives, and the tracker keeps writers out while this guard is held.
        unsafe { std::slice::from_raw_parts(self.start, self.held.buffer.len()) }
    }
}

// SAFETY: it gives out shared slices of bytes only; the memory may be read by any thread.
unsafe impl Send for ReadGuard<'_> {}
// SAFETY: as above.
unsafe impl Sync for ReadGuard<'_> {}

/// Exclusive host access to a buffer's bytes.
#[derive(Debug)]
pub struct WriteGuard<'a> {
    held: Held<'a>,
    start: *mut u8,
}

impl<'a> WriteGuard<'a> {
    pub(super) fn new(buffer: &'a Buffer) -> Result<Self> {
        let start = buffer.host_ptr()?;
        Ok(WriteGuard { held: Held::acquire(buffer, User::Host, Access::Write)?, start })
    }
}

impl Deref for WriteGuard<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as in `ReadGuard`; the tracker admits no other user beside this one.
        unsafe { std::slice::from_raw_parts(self.start, self.held.buffer.len()) }
    }
}

impl DerefMut for WriteGuard<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the memory is writable (checked when acquiring), valid for `len` bytes, and
        // the tracker admits no other user beside this one, which is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.held.buffer.len()) }
    }
}

// SAFETY: the memory may be touched by any thread, and slices of it are borrowed from the guard
// as Rust's rules have it.
unsafe impl Send for WriteGuard<'_> {}
// SAFETY: as above.
unsafe impl Sync for WriteGuard<'_> {}
