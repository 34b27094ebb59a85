//! Writes safetensors files, sound and unsound, for tests.
#![allow(dead_code)]

/// A tensor to write: name, dtype, shape, data.
pub type Tensor<'a> = (&'a str, &'a str, &'a [usize], &'a [u8]);

/// A sound file.
pub fn file(tensors: &[Tensor<'_>]) -> Vec<u8> {
    let mut at = 0;
    let mut entries = Vec::new();
    for (name, dtype, shape, data) in tensors {
        let end = at + data.len();
        entries.push(format!(
            r#"{name:?}: {{"dtype": "{dtype}", "shape": {shape:?}, "data_offsets": [{at}, {end}]}}"#
        ));
        at = end;
    }
    let data: Vec<u8> = tensors.iter().flat_map(|t| t.3).copied().collect();
    with_header(&format!("{{{}}}", entries.join(", ")), &data)
}

/// A file with any text for a header, padded so that the data begins at a multiple of 8.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut header = header.as_bytes().to_vec();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes(), &header[..], data].concat()
}

/// One entry of a header.
pub fn entry(dtype: &str, shape: &str, start: &str, end: &str) -> String {
    format!(
        r#"{{"t": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [{start}, {end}]}}}}"#
    )
}
