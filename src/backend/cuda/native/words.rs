//! What kernels report: words that the GPU copies to the host behind the work.

use std::ptr::{NonNull, null_mut};
use std::sync::{Arc, Mutex, PoisonError};

use super::api::{Context, check, sys};
use crate::backend::cuda::failure::{Failure, Problem};
use crate::backend::cuda::lock::lock;

/// Words that are allocated together.
const PAGE: usize = 512;

/// Pinned words of the host, zero or whatever was there when they are taken.
pub(super) struct Words {
    context: Arc<Context>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pages: Vec<NonNull<u64>>,
    free: Vec<NonNull<u64>>,
}

// SAFETY: the places are the process's, and each word is its taker's alone.
unsafe impl Send for Words {}
// SAFETY: as above; the lists are behind a lock.
unsafe impl Sync for Words {}

impl Words {
    pub fn new(context: &Arc<Context>) -> Arc<Self> {
        Arc::new(Words { context: context.clone(), state: Mutex::default() })
    }

    /// A word to copy to, and what another number than 0 there stands for.
    pub fn watch(self: &Arc<Self>, problem: Problem) -> Result<Watch, String> {
        let mut state = lock(&self.state);
        if state.free.is_empty() {
            self.context.bind()?;
            let mut start = null_mut();
            // SAFETY: a place for an address.
            let result = unsafe { sys::cuMemHostAlloc(&mut start, PAGE * size_of::<u64>(), 0) };
            check("cuMemHostAlloc", result)?;
            let start = NonNull::new(start.cast::<u64>()).ok_or("cuMemHostAlloc: null")?;
            state.pages.push(start);
            // SAFETY: within the page.
            state.free.extend((0..PAGE).map(|i| unsafe { start.add(i) }));
        }
        let word = state.free.pop().ok_or("a page without words")?;
        // SAFETY: a word of a live page that nobody else has.
        unsafe { word.write(0) };
        Ok(Watch { words: self.clone(), word, problem })
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = self.context.bind().map(|()| {
            for page in &state.pages {
                // SAFETY: allocated once, freed once; every word holds this.
                unsafe { sys::cuMemFreeHost(page.as_ptr().cast()) };
            }
        });
    }
}

/// A word that work copies to when it ends.
pub(super) struct Watch {
    words: Arc<Words>,
    word: NonNull<u64>,
    problem: Problem,
}

// SAFETY: the word is this watch's alone, and read by the host only when the copy has ended.
unsafe impl Send for Watch {}
// SAFETY: as above.
unsafe impl Sync for Watch {}

impl Watch {
    /// Where the GPU copies to.
    pub fn word(&self) -> *mut u64 {
        self.word.as_ptr()
    }

    /// What is wrong with the work, which has ended.
    pub fn failure(&self) -> Option<Failure> {
        // SAFETY: a word of a live page; the GPU may be writing it again where a graph is replayed,
        // whole words at a time.
        let word = unsafe { self.word.as_ptr().read_volatile() };
        (word != 0).then(|| (self.problem)(word))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.words.state).free.push(self.word);
    }
}
