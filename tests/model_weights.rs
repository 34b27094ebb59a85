//! The default model's weights, read from its file.
#![cfg(feature = "gguf")]
#![allow(missing_docs)]

use ferrocerium::io::Weights;
use ferrocerium::{Device, Error, Tensor, bf16};

fn open() -> Weights {
    let path = std::env::var_os("FERROCERIUM_TEST_MODEL")
        .expect("FERROCERIUM_TEST_MODEL names the model's file; `cargo xtask test` sets it");
    Weights::open(&Device::reference(), path).unwrap()
}

#[test]
#[ignore = "needs the default model: cargo xtask test"]
fn every_tensor_decodes_to_finite_values() {
    let weights = open();
    let start = std::time::Instant::now();
    let mut values = 0;
    for entry in weights.entries() {
        let decoded = weights.to_f32(&entry.name).unwrap();
        assert!(decoded.iter().all(|x| x.is_finite()), "{}", entry.name);
        values += decoded.len();
    }
    println!("{values} values in {:?}", start.elapsed());
    assert_eq!(values, 134_515_008);
}

#[test]
#[ignore = "needs the default model: cargo xtask test"]
fn norms_are_used_in_place_and_blocks_ask_to_be_decoded() {
    let weights = open();
    let used = weights.device().memory().used;
    let norm: Tensor<f32, 1> = weights.get("blk.0.attn_norm.weight").unwrap();
    assert_eq!(norm.shape(), [576]);
    assert_eq!(weights.device().memory().used, used);
    let e = weights.get::<f32, 2>("blk.0.attn_q.weight").err().unwrap();
    assert!(matches!(e, Error::DType { .. }) && e.to_string().contains("decode()"), "{e}");
    let q: Tensor<bf16, 2> = weights.decode("blk.0.attn_q.weight").unwrap();
    assert_eq!(q.shape(), [576, 576]);
}
