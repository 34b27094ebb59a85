//! What is to be done: in the order of each stream, and in no other but what events ask for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ptx_vm::Module;

/// A step of a stream.
#[derive(Clone)]
pub enum Step {
    /// Gives memory, not written yet.
    Allocate {
        address: u64,
        len: u64,
    },
    /// Takes memory back.
    Free {
        address: u64,
    },
    /// Copies from the host: its bytes as they are then, which are to be what they were, if that is
    /// known.
    CopyIn {
        to: u64,
        from: u64,
        len: usize,
        before: Option<Arc<[u8]>>,
    },
    /// Copies to the host.
    CopyOut {
        to: u64,
        from: u64,
        len: usize,
    },
    /// Sets each byte.
    Fill {
        address: u64,
        byte: u8,
        len: usize,
    },
    Launch(Arc<Launch>),
    /// Tells that all before it is done.
    Record(Arc<AtomicBool>),
    /// Waits for what was recorded.
    Wait(Arc<AtomicBool>),
}

/// A kernel, and what it is given.
pub struct Launch {
    pub module: Arc<Module>,
    pub kernel: String,
    pub blocks: [u32; 3],
    pub threads: [u32; 3],
    pub shared_memory: u32,
    pub parameter: Vec<u8>,
}

/// The streams that there are.
#[derive(Default)]
pub struct Streams {
    all: BTreeMap<usize, Stream>,
    random: u64,
}

#[derive(Default)]
struct Stream {
    steps: VecDeque<Step>,
    /// What is recorded instead of done, while it is.
    capture: Option<Vec<Step>>,
}

impl Streams {
    pub fn new(seed: u64) -> Self {
        Streams { all: BTreeMap::new(), random: seed }
    }

    pub fn add(&mut self, handle: usize) {
        self.all.insert(handle, Stream::default());
    }

    pub fn remove(&mut self, handle: usize) {
        self.all.remove(&handle);
    }

    pub fn has(&self, handle: usize) -> bool {
        self.all.contains_key(&handle)
    }

    pub fn is_empty(&self, handle: usize) -> bool {
        self.all.get(&handle).is_none_or(|stream| stream.steps.is_empty())
    }

    /// Puts a step at the end of a stream, or into what it records.
    pub fn push(&mut self, handle: usize, step: Step) {
        if let Some(stream) = self.all.get_mut(&handle) {
            match &mut stream.capture {
                Some(capture) => capture.push(step),
                None => stream.steps.push_back(step),
            }
        }
    }

    pub fn is_capturing(&self, handle: usize) -> bool {
        self.all.get(&handle).is_some_and(|stream| stream.capture.is_some())
    }

    pub fn begin_capture(&mut self, handle: usize) {
        if let Some(stream) = self.all.get_mut(&handle) {
            stream.capture = Some(Vec::new());
        }
    }

    pub fn end_capture(&mut self, handle: usize) -> Option<Vec<Step>> {
        self.all.get_mut(&handle)?.capture.take()
    }

    /// A step that can be done now, of any stream that has one.
    pub fn next(&mut self) -> Option<Step> {
        let ready = |stream: &Stream| match stream.steps.front() {
            Some(Step::Wait(recorded)) => recorded.load(Ordering::Acquire),
            front => front.is_some(),
        };
        let ready: Vec<usize> = self
            .all
            .iter()
            .filter(|(_, stream)| ready(stream))
            .map(|(&handle, _)| handle)
            .collect();
        let drawn = *ready.get(self.draw(ready.len()))?;
        self.all.get_mut(&drawn)?.steps.pop_front()
    }

    /// One of so many numbers from 0 on (SplitMix64).
    pub fn draw(&mut self, count: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) as usize % count.max(1)
    }
}
