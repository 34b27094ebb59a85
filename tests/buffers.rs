//! Buffers: alignment, who may touch them when, the books, and what is left when they go.
//! `memory` has the limits that systems set.

#[path = "common/folder.rs"]
mod folder;
#[path = "common/ops.rs"]
mod ops;

use std::sync::mpsc;
use std::time::Duration;

use ferrocerium::caps::MemoryKind;
use ferrocerium::memory::{Access, Buffer, BufferBytes, HOST_ALIGNMENT, Locks, Pool, Region};
use ferrocerium::{Device, Error, Tensor};
use folder::Folder;
use ops::{error, says};
use proptest::prelude::*;

fn pool(budget: u64) -> Pool {
    Pool::new("test", budget)
}

fn host(pool: &Pool, len: usize) -> Buffer {
    Buffer::host(pool, len, "buffer").unwrap()
}

#[test]
fn host_memory_is_zero_and_aligned_whatever_its_size() {
    let pool = pool(u64::MAX);
    let mut alive = Vec::new();
    for len in [0, 1, 2, 255, 256, 257, 4096, 1_000_003] {
        let buffer = host(&pool, len);
        {
            let bytes = buffer.read().unwrap();
            assert_eq!(bytes.len(), len);
            assert!(bytes.iter().all(|&b| b == 0));
            assert_eq!(bytes.as_ptr().addr() % HOST_ALIGNMENT, 0);
        }
        assert_eq!((buffer.kind(), buffer.is_empty()), (MemoryKind::Host, len == 0));
        alive.push(buffer);
    }
    let ids: std::collections::BTreeSet<_> = alive.iter().map(Buffer::id).collect();
    assert_eq!(ids.len(), alive.len());
}

#[test]
fn the_books_hold_what_is_alive_and_remember_the_peak() {
    let pool = pool(1000);
    let a = host(&pool, 600);
    let b = host(&pool, 400);
    drop(a);
    let clone = b.clone();
    drop(b);
    let report = pool.report();
    assert_eq!((report.used, report.peak, report.budget, report.buffers), (400, 1000, 1000, 1));
    drop(clone);
    let report = pool.report();
    assert_eq!((report.used, report.peak, report.buffers), (0, 1000, 0));
    assert!(report.largest.is_empty());
}

#[test]
fn over_the_budget_is_an_error_that_names_request_budget_and_largest_holders() {
    let pool = pool(4096);
    let _weights = Buffer::host(&pool, 3000, "weights").unwrap();
    let _scratch = Buffer::host(&pool, 1000, "scratch").unwrap();
    let refused = Buffer::host(&pool, 97, "cache").unwrap_err();
    says(
        &refused.to_string(),
        &[
            "97 B for `cache`",
            "on test",
            "3.9 KiB is in use",
            "96 B more",
            "4.0 KiB",
            "memory_limit",
        ],
    );
    let Error::OutOfMemory { label, request, used, available, explanation, .. } = refused else {
        panic!("another error")
    };
    assert_eq!((label.as_str(), request, used, available), ("cache", 97, 4000, 96));
    says(&explanation, &["largest: `weights` 2.9 KiB, `scratch` 1000 B"]);
    // What was refused is not booked, and what fits exactly is not refused.
    assert_eq!(pool.report().used, 4000);
    host(&pool, 96);
}

#[test]
fn sizes_that_no_machine_has_are_errors_too() {
    let pool = pool(u64::MAX);
    let _some = host(&pool, 10);
    for len in [usize::MAX, isize::MAX as usize, 1 << 60] {
        assert!(
            matches!(Buffer::host(&pool, len, "huge"), Err(Error::OutOfMemory { .. })),
            "{len}"
        );
    }
    assert_eq!((pool.report().used, pool.report().buffers), (10, 1));
    let shape = [usize::MAX / 2, 3];
    assert!(matches!(
        Tensor::<u8, 2>::zeros(&Device::reference(), shape),
        Err(Error::Shape { .. })
    ));
}

#[test]
fn a_report_lists_the_largest_buffers_by_label() {
    let pool = pool(1 << 30);
    let alive: Vec<_> =
        (1..=20).map(|i| Buffer::host(&pool, i << 10, format!("b{i}")).unwrap()).collect();
    let report = pool.report();
    let names: Vec<_> = report.largest.iter().map(|b| b.label.as_str()).collect();
    assert_eq!(names, ["b20", "b19", "b18", "b17", "b16", "b15", "b14", "b13"]);
    assert_eq!(report.buffers, alive.len());
    says(&report.to_string(), &["210.0 KiB used in 20 buffers", "1.0 GiB", "`b20` 20.0 KiB"]);
}

#[test]
fn guards_share_reading_and_exclude_writing() {
    let buffer = host(&pool(64), 8);
    let (a, b) = (buffer.read().unwrap(), buffer.read().unwrap());
    says(&error(buffer.write()), &["`buffer`", "host guard", "write", "reading", "drop"]);
    drop((a, b));
    let mut writer = buffer.write().unwrap();
    writer[3] = 7;
    says(&error(buffer.read()), &["read", "writing", "drop"]);
    says(&error(buffer.clone().write()), &["write", "writing", "drop"]);
    drop(writer);
    assert_eq!(buffer.read().unwrap()[3], 7);
}

#[test]
fn a_host_guard_waits_for_an_operation_and_an_operation_does_not_wait_for_a_guard() {
    let buffer = host(&pool(64), 8);
    let (started, running) = mpsc::channel();
    let (finish, wait) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let operation = &buffer;
        scope.spawn(move || {
            let mut locks = Locks::acquire("op", [(operation, Access::Write)]).unwrap();
            started.send(()).unwrap();
            wait.recv().unwrap();
            for (_, bytes) in locks.bytes() {
                let BufferBytes::Write(bytes) = bytes else { panic!("not for writing") };
                bytes[0] = 1;
            }
        });
        running.recv().unwrap();
        let (done, read) = mpsc::channel();
        let reader = &buffer;
        scope.spawn(move || done.send(reader.read().unwrap()[0]).unwrap());
        assert!(read.recv_timeout(Duration::from_millis(50)).is_err(), "it did not wait");
        finish.send(()).unwrap();
        assert_eq!(read.recv().unwrap(), 1);
    });
    let guard = buffer.read().unwrap();
    assert!(matches!(Locks::acquire("op", [(&buffer, Access::Write)]), Err(Error::Busy { .. })));
    Locks::acquire("op", [(&buffer, Access::Read)]).unwrap();
    drop(guard);
}

#[test]
fn an_operation_that_can_not_lock_all_locks_nothing() {
    let pool = pool(64);
    let (a, b) = (host(&pool, 8), host(&pool, 8));
    let guard = b.read().unwrap();
    let uses = || [(&a, Access::Write), (&b, Access::Write)];
    assert!(Locks::acquire("op", uses()).is_err());
    a.write().unwrap();
    drop(guard);
    Locks::acquire("op", uses()).unwrap();
    // An output that is also another operand is refused before anything is locked.
    let twice = Locks::acquire("op", [(&a, Access::Read), (&a, Access::Write)]);
    assert!(matches!(twice, Err(Error::Layout { .. })));
    Locks::acquire("op", [(&a, Access::Read), (&a, Access::Read)]).unwrap();
}

#[test]
fn operations_on_the_same_buffers_in_any_order_do_not_block_each_other_for_ever() {
    let pool = pool(1 << 10);
    let buffers: Vec<_> = (0..4).map(|_| host(&pool, 8)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let buffers = &buffers;
            scope.spawn(move || {
                for round in 0..500 {
                    let at = |i: usize| &buffers[(thread + i * (1 + 2 * (round % 2))) % 4];
                    let uses =
                        [(at(0), Access::Write), (at(1), Access::Write), (at(2), Access::Read)];
                    let mut locks = Locks::acquire("op", uses).unwrap();
                    for (_, bytes) in locks.bytes() {
                        if let BufferBytes::Write(bytes) = bytes {
                            // Lost updates would show that two writers were let in.
                            let count = u64::from_le_bytes(bytes[..].try_into().unwrap());
                            bytes.copy_from_slice(&(count + 1).to_le_bytes());
                        }
                    }
                }
            });
        }
    });
    let count = |b: &Buffer| u64::from_le_bytes(b.read().unwrap()[..].try_into().unwrap());
    assert_eq!(buffers.iter().map(count).sum::<u64>(), 4 * 500 * 2);
}

#[test]
fn the_books_are_right_when_threads_allocate_and_free() {
    let pool = pool(1 << 20);
    std::thread::scope(|scope| {
        for thread in 1..=4 {
            let pool = &pool;
            scope.spawn(move || {
                for i in 0..200 {
                    let buffer = host(pool, thread * 100 + i);
                    buffer.write().unwrap().fill(thread as u8);
                    assert!(buffer.read().unwrap().iter().all(|&b| b == thread as u8));
                }
            });
        }
    });
    let report = pool.report();
    assert_eq!((report.used, report.buffers), (0, 0));
    assert!(report.peak >= 400 && report.peak <= 4 * 600);
}

#[test]
fn a_mapped_file_is_read_in_place_and_never_written() {
    let folder = Folder::new("mapped");
    let path = folder.write("data", [1u8, 2, 3, 4, 5, 6, 7, 8]);
    let file = Buffer::map_file(&path).unwrap();
    assert_eq!((file.kind(), file.len()), (MemoryKind::Mapped, 8));
    assert_eq!(&file.read().unwrap()[2..4], [3, 4]);
    says(&error(file.write()), &["data", "mapped", "read-only", "copy"]);
    let device = Device::reference();
    let tensor = Tensor::<u16, 1>::from_buffer(&device, file, 2, [3]).unwrap();
    assert_eq!(tensor.to_vec().unwrap(), [0x0403, 0x0605, 0x0807]);
    assert_eq!(device.memory().used, 0, "the page cache's memory is not charged");
    says(&error(tensor.host_mut()), &["read-only", "copy"]);
    tensor.copy().unwrap().host_mut().unwrap()[[0]] = 9;
    let other = Tensor::<u16, 1>::zeros(&device, [3]).unwrap();
    says(&error(tensor.copy_from(&other)), &["read-only"]);
}

#[test]
fn files_that_can_not_be_mapped_say_why() {
    let folder = Folder::new("not-mapped");
    says(&error(Buffer::map_file(folder.path().join("none"))), &["none", "No such file"]);
    says(&error(Buffer::map_file(folder.path())), &["not a regular file"]);
    let empty = Buffer::map_file(folder.write("empty", "")).unwrap();
    assert!(empty.is_empty() && empty.read().unwrap().is_empty());
}

#[test]
fn regions_stay_within_their_buffer() {
    let buffer = host(&pool(64), 16);
    let region = Region::new(buffer.clone(), 4, 8).unwrap();
    assert_eq!(region.range(), 4..12);
    assert_eq!(region.slice(2, 6).unwrap().range(), 6..12);
    assert_eq!(region.slice(8, 0).unwrap().len(), 0);
    for (offset, len) in [(9, 8), (17, 0), (usize::MAX, 1), (1, usize::MAX)] {
        says(&error(Region::new(buffer.clone(), offset, len)), &["reach past", "16 bytes"]);
    }
    for (offset, len) in [(0, 9), (9, 0), (usize::MAX, 2)] {
        says(&error(region.slice(offset, len)), &["reach past", "8 bytes"]);
    }
}

#[test]
fn a_tensor_may_go_while_its_bytes_are_in_use() {
    let device = Device::builder().memory_limit(1 << 10).reference();
    let x = Tensor::from_host(&device, [4], &[1.0f32, 2.0, 3.0, 4.0]).unwrap();
    let view = x.slice(0, 2..4).unwrap();
    drop(x);
    assert_eq!(device.memory().used, 16, "the view keeps the whole buffer");
    assert_eq!(view.to_vec().unwrap(), [3.0, 4.0]);
    let owner = view.clone();
    let host = owner.host().unwrap();
    drop(view);
    assert_eq!(host[[1]], 4.0);
    drop(host);
    drop(owner);
    assert_eq!(device.memory().used, 0);
}

#[test]
fn temporary_results_are_freed_as_they_go() {
    let device = Device::builder().memory_limit(3 * 4096).reference();
    let mut x = Tensor::<f32, 1>::zeros(&device, [1024]).unwrap();
    for _ in 0..50 {
        x = x.add_scalar(1.0).unwrap();
    }
    assert_eq!(x.host().unwrap()[[5]], 50.0);
    let report = device.memory();
    assert_eq!((report.used, report.peak), (4096, 2 * 4096));
}

proptest! {
    #[test]
    fn used_is_the_sum_of_what_lives_and_never_above_the_budget(
        steps in prop::collection::vec((0usize..400, any::<bool>()), 0..60),
    ) {
        let pool = pool(1000);
        let mut alive: Vec<Buffer> = Vec::new();
        let mut peak = 0;
        for (len, frees) in steps {
            let used: usize = alive.iter().map(Buffer::len).sum();
            if frees && !alive.is_empty() {
                alive.swap_remove(len % alive.len());
            } else {
                let result = Buffer::host(&pool, len, "b");
                prop_assert_eq!(result.is_ok(), used + len <= 1000);
                alive.extend(result.ok());
            }
            let used: usize = alive.iter().map(Buffer::len).sum();
            peak = peak.max(used);
            let report = pool.report();
            prop_assert_eq!((report.used, report.peak), (used as u64, peak as u64));
        }
    }
}
