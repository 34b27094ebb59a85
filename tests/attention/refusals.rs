//! What is refused, and that the message names the argument and the values.

use ferrocerium::format::Nvfp4;
use ferrocerium::op::{Attention, KvLayout, Op, Operand};
use ferrocerium::{Device, Error, ScaledTensor, Tensor};

use crate::support::{DEVICE, ints};

fn zeros<const R: usize>(shape: [usize; R]) -> Tensor<f64, R> {
    Tensor::zeros(&DEVICE, shape).unwrap()
}

/// Fails unless the call is refused with a message that holds each of the texts.
#[track_caller]
fn refuses<T>(result: Result<T, Error>, texts: &[&str]) {
    let Err(error) = result else { panic!("it was accepted") };
    let message = error.to_string();
    for text in texts {
        assert!(message.contains(text), "{message:?} does not hold {text:?}");
    }
}

#[track_caller]
fn attention_refuses(q: [usize; 4], k: [usize; 4], v: [usize; 4], texts: &[&str]) {
    refuses(zeros(q).attention(&zeros(k), &zeros(v)).run::<f64>(), texts);
}

#[test]
fn sizes_that_differ() {
    attention_refuses(
        [2, 3, 4, 8],
        [2, 5, 2, 6],
        [2, 5, 2, 6],
        &["q is [2, 3, 4, 8] f64, k is [2, 5, 2, 6] f64: head sizes 8 and 6 differ"],
    );
    attention_refuses(
        [2, 3, 4, 8],
        [3, 5, 2, 8],
        [3, 5, 2, 8],
        &["attention: q, k: ", "batch sizes 2 and 3 differ"],
    );
    attention_refuses(
        [2, 3, 4, 8],
        [2, 5, 2, 8],
        [2, 6, 2, 8],
        &["attention: v: ", "v is [2, 6, 2, 8]", "k is [2, 5, 2, 8]"],
    );
    attention_refuses([2, 3, 4, 8], [2, 5, 2, 8], [2, 5, 1, 8], &["attention: v: "]);
}

#[test]
fn heads_that_are_no_multiple_of_the_key_heads() {
    let texts = ["4 heads can not share 3 key heads; a multiple of 3"];
    attention_refuses([1, 1, 4, 2], [1, 1, 3, 2], [1, 1, 3, 2], &texts);
    let texts = ["4 heads can not share 0 key heads"];
    attention_refuses([1, 1, 4, 2], [1, 1, 0, 2], [1, 1, 0, 2], &texts);
    let texts = ["2 heads can not share 4 key heads"];
    attention_refuses([1, 1, 2, 2], [1, 1, 4, 2], [1, 1, 4, 2], &texts);
}

#[test]
fn ranks_that_do_not_belong_to_the_layout() {
    let (three, four) = (zeros([2, 1, 4]), zeros([1, 2, 1, 4]));
    let (cu, table) = (ints([0, 2]), Tensor::from_host(&DEVICE, [1, 1], &[0]).unwrap());
    let run = |builder: ferrocerium::Result<Tensor<f64, 3>>, texts: &[&str]| {
        refuses(builder, texts);
    };
    run(three.attention(&four, &four).run(), &["q is [2, 1, 4] f64", "cu_seqlens_q"]);
    run(
        three.attention(&four, &four).varlen(&cu, &cu).run(),
        &["k is [1, 2, 1, 4] f64", "[total_kv, kv_heads, d]"],
    );
    run(
        three.attention(&three, &three).varlen_queries(&cu).run(),
        &["k is [2, 1, 4] f64", "[batch, kv_len, kv_heads, d]"],
    );
    run(
        three.attention(&three, &three).varlen_queries(&cu).paged(&table, &ints([2])).run(),
        &["k is [2, 1, 4] f64", "[num_blocks, block_size, kv_heads, d]"],
    );
    refuses(
        four.attention(&four, &four).varlen_queries(&cu).run::<f64>(),
        &["q is [1, 2, 1, 4] f64", "[total_q, heads, d]"],
    );
    let empty: Tensor<i32, 1> = Tensor::zeros(&DEVICE, [0]).unwrap();
    run(three.attention(&three, &three).varlen(&empty, &cu).run(), &["cu_seqlens_q is [0] i32"]);
}

#[test]
fn operands_of_other_sizes() {
    let q = zeros([2, 3, 4, 8]);
    let start = || q.attention(&q, &q);
    let short = zeros([3]);
    refuses(start().sinks(&short).run::<f64>(), &["sinks is [3] f64: sizes [4]"]);
    refuses(start().alibi(&short).run::<f64>(), &["alibi is [3] f64: sizes [4]"]);
    refuses(start().kv_lens(&ints([1])).run::<f64>(), &["kv_lens is [1] i32: sizes [2]"]);
    refuses(
        start().run_into(&zeros([2, 3, 4, 7])),
        &["out is [2, 3, 4, 7] f64: sizes [2, 3, 4, 8]"],
    );
    let table = Tensor::from_host(&DEVICE, [3, 1], &[0; 3]).unwrap();
    refuses(start().paged(&table, &ints([1, 1, 1])).run::<f64>(), &["batch sizes 2 and 3 differ"]);
    let table = Tensor::from_host(&DEVICE, [2, 1], &[0; 2]).unwrap();
    refuses(start().paged(&table, &ints([1])).run::<f64>(), &["kv_lens is [1] i32: sizes [2]"]);
    let packed = zeros([6, 4, 8]);
    refuses(
        packed.attention(&packed, &packed).varlen(&ints([0, 6]), &ints([0, 3, 6])).run::<f64>(),
        &["batch sizes 1 and 2 differ"],
    );
}

#[test]
fn operands_of_other_types() {
    let q = zeros([1, 2, 1, 4]);
    let integers: Operand = Tensor::<i32, 4>::zeros(&DEVICE, [1, 2, 1, 4]).unwrap().operand();
    let good = || {
        let out = zeros([1, 2, 1, 4]);
        Attention::new(q.operand(), q.operand(), q.operand(), out.operand())
    };
    DEVICE.run(&Op::from(good())).unwrap();
    let scaled: ScaledTensor<Nvfp4, 4> = ScaledTensor::zeros(&DEVICE, [1, 2, 1, 4]).unwrap();
    let floats = zeros([1]).operand();
    let lens = KvLayout::Batched { kv_lens: Some(floats.clone()) };
    for (op, text) in [
        (Attention { q: integers.clone(), ..good() }, "q is [1, 2, 1, 4] i32: a float or block"),
        (Attention { k: integers.clone(), ..good() }, "k is [1, 2, 1, 4] i32: a float or block"),
        (Attention { v: integers.clone(), ..good() }, "v is [1, 2, 1, 4] i32: a float or block"),
        (Attention { out: integers.clone(), ..good() }, "out is [1, 2, 1, 4] i32: a float"),
        (Attention { out: scaled.operand(), ..good() }, "out is [1, 2, 1, 4] nvfp4: plain"),
        (Attention { sinks: Some(ints([0]).operand()), ..good() }, "sinks is [1] i32: a float"),
        (Attention { alibi: Some(ints([0]).operand()), ..good() }, "alibi is [1] i32: a float"),
        (Attention { kv: lens, ..good() }, "kv_lens is [1] f64: u32 or i32 or i64"),
        (
            Attention { lse: Some(zeros([1, 2, 2]).operand()), ..good() },
            "lse is [1, 2, 2] f64: sizes [1, 2, 1]",
        ),
    ] {
        refuses(DEVICE.run(&op.into()), &["attention: ", text]);
    }
}

#[test]
fn blocks_along_another_size() {
    let q = zeros([1, 2, 16, 16]);
    let k: ScaledTensor<Nvfp4, 4> = ScaledTensor::zeros(&DEVICE, [1, 2, 16, 16]).unwrap();
    refuses(q.attention(&k.t(), &k).run::<f64>(), &["k is [1, 2, 16, 16] nvfp4 transposed"]);
    refuses(q.attention(&k, &k.t()).run::<f64>(), &["v is [1, 2, 16, 16] nvfp4 transposed"]);
}

#[test]
fn parameters_out_of_range() {
    let q = zeros([1, 2, 1, 4]);
    let start = || q.attention(&q, &q);
    refuses(start().scale(f32::NAN).run::<f64>(), &["scale: NaN"]);
    refuses(start().scale(f32::INFINITY).run::<f64>(), &["scale: inf"]);
    refuses(start().softcap(0.0).run::<f64>(), &["softcap: 0"]);
    refuses(start().softcap(-3.0).run::<f64>(), &["softcap: -3"]);
    refuses(start().softcap(f32::NAN).run::<f64>(), &["softcap: NaN"]);
    refuses(start().window(0).run::<f64>(), &["window: 0 keys"]);
}

#[test]
fn lengths_beyond_the_cache() {
    let q = zeros([2, 3, 1, 4]);
    let run = |lens| q.attention(&q, &q).kv_lens(&ints(lens)).run::<f64>();
    assert!(run([3, 0]).is_ok());
    refuses(run([3, 4]), &["kv_lens: element 1 is 4; 0 to 3"]);
    refuses(run([-1, 3]), &["kv_lens: element 0 is -1; 0 to 3"]);
}

#[test]
fn offsets_that_are_no_partition() {
    let q = zeros([4, 1, 2]);
    let run = |cu_q, cu_k| q.attention(&q, &q).varlen(&ints(cu_q), &ints(cu_k)).run::<f64>();
    assert!(run([0, 1, 4], [0, 4, 4]).is_ok());
    refuses(run([1, 2, 4], [0, 2, 4]), &["cu_seqlens_q: it begins at 1"]);
    refuses(run([0, 2, 3], [0, 2, 4]), &["cu_seqlens_q: it ends at 3, but there are 4 rows"]);
    refuses(run([0, 2, 4], [0, 2, 5]), &["cu_seqlens_k: it ends at 5, but there are 4 rows"]);
    refuses(run([0, 2, 4], [0, 9, 4]), &["cu_seqlens_k: element 2 is 4, below the 9 before it"]);
    refuses(run([0, -2, 4], [0, 2, 4]), &["cu_seqlens_q: element 1 is -2, below the 0 before"]);
}

#[test]
fn block_indices_and_lengths_out_of_range() {
    let (q, k) = (zeros([1, 1, 1, 2]), zeros([3, 2, 1, 2]));
    let run = |blocks: [i32; 2], len| {
        let table = Tensor::from_host(&DEVICE, [1, 2], &blocks).unwrap();
        q.attention(&k, &k).paged(&table, &ints([len])).run::<f64>()
    };
    assert!(run([2, 0], 4).is_ok());
    // The second block is not called for.
    assert!(run([2, 7], 2).is_ok());
    refuses(run([2, 3], 3), &["block_table: element 1 is 3, not an index below 3"]);
    refuses(run([-1, 0], 1), &["block_table: element 0 is -1, not an index below 3"]);
    refuses(run([0, 0], 5), &["kv_lens: element 0 is 5; 0 to 4"]);
    refuses(run([0, 0], -1), &["kv_lens: element 0 is -1; 0 to 4"]);
}

#[test]
fn operands_of_another_device() {
    let other = Device::reference();
    let (q, k) = (zeros([1, 1, 1, 1]), Tensor::<f64, 4>::zeros(&other, [1, 1, 1, 1]).unwrap());
    let sinks: Tensor<f64, 1> = Tensor::zeros(&other, [1]).unwrap();
    refuses(q.attention(&k, &k).run::<f64>(), &["operands live on"]);
    refuses(q.attention(&q, &q).sinks(&sinks).run::<f64>(), &["operands live on"]);
}
