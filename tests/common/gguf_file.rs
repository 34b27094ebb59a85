//! Writes GGUF files, sound and unsound, for tests.
#![allow(dead_code)]

/// Assembles a GGUF file; every field can be set to what a sound writer would never write.
#[derive(Clone)]
pub struct GgufFile {
    pub version: u32,
    pub alignment: usize,
    /// Overrides the counts in the header.
    pub tensor_count: Option<u64>,
    pub metadata_count: Option<u64>,
    pub metadata: Vec<Vec<u8>>,
    pub tensors: Vec<TensorEntry>,
}

/// A tensor as the header will state it, and its data.
#[derive(Clone)]
pub struct TensorEntry {
    name: Vec<u8>,
    dims: Vec<u64>,
    code: u32,
    /// Where the header says it is; where it is unless stated.
    offset: Option<u64>,
    data: Vec<u8>,
}

pub fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// Type codes of metadata values.
pub const U32: u32 = 4;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const STRING: u32 = 8;
pub const ARRAY: u32 = 9;

impl Default for GgufFile {
    fn default() -> Self {
        Self {
            version: 3,
            alignment: 32,
            tensor_count: None,
            metadata_count: None,
            metadata: Vec::new(),
            tensors: Vec::new(),
        }
    }
}

impl GgufFile {
    pub fn raw(mut self, key: &str, code: u32, value: &[u8]) -> Self {
        self.metadata.push([&string(key)[..], &code.to_le_bytes(), value].concat());
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.raw(key, U32, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.raw(key, F32, &value.to_le_bytes())
    }

    pub fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, BOOL, &[value.into()])
    }

    pub fn str(self, key: &str, value: &str) -> Self {
        self.raw(key, STRING, &string(value))
    }

    pub fn array(self, key: &str, code: u32, elements: &[Vec<u8>]) -> Self {
        let head = [&code.to_le_bytes()[..], &(elements.len() as u64).to_le_bytes()].concat();
        self.raw(key, ARRAY, &[head, elements.concat()].concat())
    }

    pub fn strs<S: AsRef<[u8]>>(self, key: &str, values: &[S]) -> Self {
        let values: Vec<_> = values.iter().map(string).collect();
        self.array(key, STRING, &values)
    }

    /// A tensor with its dimensions as the file has them (innermost first), placed after the ones
    /// before it.
    pub fn tensor(self, name: &str, dims: &[u64], code: u32, data: &[u8]) -> Self {
        self.tensor_at(name, dims, code, None, data)
    }

    pub fn without(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name.as_bytes());
        self
    }

    pub fn tensor_at(
        mut self,
        name: impl AsRef<[u8]>,
        dims: &[u64],
        code: u32,
        offset: Option<u64>,
        data: &[u8],
    ) -> Self {
        self.tensors.push(TensorEntry {
            name: name.as_ref().to_vec(),
            dims: dims.to_vec(),
            code,
            offset,
            data: data.to_vec(),
        });
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.metadata_count.unwrap_or(self.metadata.len() as u64).to_le_bytes());
        out.extend(self.metadata.concat());
        let mut data = Vec::new();
        for t in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            out.extend(string(&t.name));
            out.extend((t.dims.len() as u32).to_le_bytes());
            out.extend(t.dims.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(t.code.to_le_bytes());
            out.extend(t.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&t.data);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }
}
