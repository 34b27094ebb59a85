//! Calls that the system refuses, each in its turn: reads of a broken disk, writes to a full one.
//! What fails is an error value that names the file, leaves nothing behind, and works when the
//! system does again.
//!
//! This program's own versions of the C library's functions stand before those.
#![cfg(all(
    target_os = "linux",
    target_env = "gnu",
    feature = "cpu",
    feature = "gguf",
    feature = "npy",
    feature = "safetensors"
))]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/gguf_file.rs"]
mod gguf_file;
#[path = "common/ops.rs"]
mod ops;
#[path = "common/safetensors_file.rs"]
mod safetensors_file;

use std::ffi::{c_char, c_int, c_void};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferrocerium::format::{Format, Nvfp4, Quantizer};
use ferrocerium::io::npy;
use ferrocerium::io::safetensors::{Contents, Naming, Writer, save};
use ferrocerium::io::{Loader, Target};
use ferrocerium::memory::SourceFile;
use ferrocerium::{AnyTensor, DType, Device, Error, Result, Tensor, bf16};
use folder::Folder;
use gguf_file::GgufFile;
use ops::{numbers, says};
use safetensors_file::{Tensor as Part, file};

/// Calls to go until one is refused; negative when none will be.
static COUNTDOWN: AtomicI64 = AtomicI64::new(-1);
/// Whether all after that one are, too.
static ON_AND_ON: AtomicBool = AtomicBool::new(false);
/// `EIO`, say.
static REASON: AtomicI32 = AtomicI32::new(0);
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Whether this call is refused.
fn refused() -> bool {
    let ended = |n: i64| (n >= 0).then_some(if n == 0 { 0 } else { n - 1 });
    let Ok(n) = COUNTDOWN.fetch_update(Ordering::SeqCst, Ordering::SeqCst, ended) else {
        return false;
    };
    let first = n == 0 && !REFUSED.swap(true, Ordering::SeqCst);
    let refused = first || (n == 0 && ON_AND_ON.load(Ordering::SeqCst));
    if refused {
        // SAFETY: the place is this thread's.
        unsafe { *libc::__errno_location() = REASON.load(Ordering::SeqCst) };
    }
    refused
}

/// Functions that do what the C library's do unless they are refused.
macro_rules! stand_before {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty = $call:expr;)*) => {$(
        /// # Safety
        /// That of the system's call.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> $result {
            if refused() {
                return -1;
            }
            // SAFETY: what the caller gave, to the call that it wanted.
            unsafe { $call as $result }
        }
    )*};
}

stand_before! {
    pread64(fd: c_int, bytes: *mut c_void, len: usize, at: i64) -> isize =
        libc::syscall(libc::SYS_pread64, fd, bytes, len, at);
    pwrite64(fd: c_int, bytes: *const c_void, len: usize, at: i64) -> isize =
        libc::syscall(libc::SYS_pwrite64, fd, bytes, len, at);
    ftruncate64(fd: c_int, len: i64) -> c_int = libc::syscall(libc::SYS_ftruncate, fd, len);
    fsync(fd: c_int) -> c_int = libc::syscall(libc::SYS_fsync, fd);
    fdatasync(fd: c_int) -> c_int = libc::syscall(libc::SYS_fdatasync, fd);
    rename(from: *const c_char, to: *const c_char) -> c_int =
        libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0);
}

/// There is one countdown for all tests, so they take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `call` with its `n`th call to the system refused, and says whether there was one.
fn with_refusal<T>(
    n: i64,
    (reason, on_and_on): (i32, bool),
    call: impl FnOnce() -> T,
) -> (T, bool) {
    REASON.store(reason, Ordering::SeqCst);
    ON_AND_ON.store(on_and_on, Ordering::SeqCst);
    REFUSED.store(false, Ordering::SeqCst);
    COUNTDOWN.store(n, Ordering::SeqCst);
    let result = call();
    COUNTDOWN.store(-1, Ordering::SeqCst);
    (result, REFUSED.load(Ordering::SeqCst))
}

fn device() -> Device {
    Device::builder().threads(2).cpu().unwrap()
}

fn raw(any: &AnyTensor) -> Vec<Vec<u8>> {
    any.operand().regions().map(|r| r.buffer().read().unwrap()[r.range()].to_vec()).collect()
}

type Raw = Vec<(String, Vec<Vec<u8>>)>;

fn load(device: &Device, path: &Path, target: Target) -> Result<Raw> {
    let plan = Loader::open(device, path)?.in_place(false).plan(|_| target)?;
    let loaded = plan.load(|_| ControlFlow::Continue(()))?;
    Ok(loaded.iter().map(|(name, any)| (name.to_owned(), raw(any))).collect())
}

fn bf16s(n: usize, seed: u64) -> Vec<u8> {
    numbers(n, seed).iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
}

/// Files of each kind: one, several by an index, GGUF.
fn models(folder: &Folder) -> Vec<std::path::PathBuf> {
    let (wide, norm) = (bf16s(700 * 1024, 1), bf16s(1024, 2));
    let codes: Vec<u8> = (0..64 * 128).map(|i| (i % 0x70) as u8).collect();
    let parts: [Part<'_>; 5] = [
        ("a.weight", "BF16", &[700, 1024], &wide),
        ("n.weight", "U8", &[64, 128], &codes),
        ("n.weight_scale", "F8_E4M3", &[64, 16], &[0x38; 64 * 16]),
        ("n.weight_scale_2", "F32", &[], &1f32.to_le_bytes()),
        ("norm.weight", "BF16", &[1024], &norm),
    ];
    let one = folder.write("one.safetensors", file(&parts));
    std::fs::create_dir(folder.path().join("two")).unwrap();
    folder.write("two/1.safetensors", file(&parts[..1]));
    folder.write("two/2.safetensors", file(&parts[1..]));
    let file_of = |i: usize| if i == 0 { "1.safetensors" } else { "2.safetensors" };
    let map: serde_json::Map<_, _> =
        parts.iter().enumerate().map(|(i, p)| (p.0.to_owned(), file_of(i).into())).collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    let two = folder.write("two/model.safetensors.index.json", index);
    let q8: Vec<u8> = (0..256).flat_map(|i| [&[0, 0x30][..], &[i as u8; 32]].concat()).collect();
    let fp4 = vec![0x21; 17 * 256];
    let gguf =
        GgufFile::default().tensor("q", &[64, 128], 8, &q8).tensor("m", &[64, 128], 39, &fp4);
    vec![one, two, folder.write("model.gguf", gguf.bytes())]
}

#[test]
fn a_read_that_fails_anywhere_is_an_error_that_names_the_file_and_leaves_no_memory() {
    let _turn = alone();
    let device = device();
    let folder = Folder::new("refused-reads");
    let targets = [
        Target::Keep,
        Target::Elements(DType::F16),
        Target::Blocks(Format::Nvfp4, Quantizer::Amax),
        Target::Blocks(Format::Fp8TensorE4M3, Quantizer::Amax),
    ];
    for (path, target) in
        models(&folder).iter().flat_map(|path| targets.map(|target| (path, target)))
    {
        let expected = load(&device, path, target).unwrap();
        // In the page cache, and not: then reads go past it.
        for cold in [false, true] {
            let mut errors = 0;
            for n in 0.. {
                assert!(n < 1000, "it never succeeds");
                if cold && let Ok(source) = SourceFile::open(path) {
                    std::fs::File::open(path).unwrap().sync_all().unwrap();
                    source.will_not_read(0..u64::MAX >> 1);
                }
                let broken = (libc::EIO, true);
                let (result, refused) = with_refusal(n, broken, || load(&device, path, target));
                match result {
                    Ok(found) => {
                        assert!(!refused, "read {n} failed and nobody noticed");
                        assert!(found == expected);
                    }
                    Err(Error::Io { path: file, reason }) => {
                        assert!(refused && reason.raw_os_error() == Some(libc::EIO), "{reason}");
                        assert!(file.starts_with(folder.path()), "{}", file.display());
                        errors += 1;
                    }
                    Err(error) => panic!("read {n}: {error:?}"),
                }
                assert_eq!(device.memory().used, 0, "read {n} left memory behind");
                assert!(load(&device, path, target).unwrap() == expected, "broken after read {n}");
                if !refused {
                    break;
                }
            }
            // Header, and at least one of each weight.
            assert!(errors >= 3, "{} {target:?}: {errors} reads", path.display());
        }
    }
}

#[test]
fn a_write_that_fails_anywhere_leaves_the_old_file_or_the_whole_new_one() {
    let _turn = alone();
    let device = device();
    let folder = Folder::new("refused-writes");
    let x = ops::tensor::<f32, 2>(&device, [64, 256], 1);
    let (old, new): (AnyTensor, AnyTensor) =
        (x.clone().into(), x.quantize::<Nvfp4>().unwrap().into());
    let safetensors = folder.path().join("m.safetensors");
    let npy = folder.path().join("m.npy");
    let y = ops::tensor::<f32, 2>(&device, [3, 5], 2);
    type Write<'a> = Box<dyn Fn(bool) -> Result<()> + 'a>;
    let writes: [(&Path, Write<'_>); 2] = [
        (
            &safetensors,
            Box::new(|first| {
                save(&safetensors, [("x", if first { &old } else { &new })], Naming::ModelOpt)
            }),
        ),
        (
            &npy,
            Box::new(|first| match first {
                true => npy::save(&npy, &AnyTensor::from(x.clone())),
                false => npy::save(&npy, &AnyTensor::from(y.clone())),
            }),
        ),
    ];
    for (path, write) in &writes {
        write(false).unwrap();
        let whole = std::fs::read(path).unwrap();
        for broken in [(libc::ENOSPC, false), (libc::ENOSPC, true), (libc::EIO, false)] {
            let mut errors = 0;
            for n in 0.. {
                assert!(n < 1000, "it never succeeds");
                write(true).unwrap();
                let before = std::fs::read(path).unwrap();
                let (result, refused) = with_refusal(n, broken, || write(false));
                let found = std::fs::read(path).unwrap();
                match result {
                    Ok(()) => assert!(!refused && found == whole, "write {n} was not noticed"),
                    Err(Error::Io { path: file, reason }) => {
                        assert!(refused && reason.raw_os_error() == Some(broken.0), "{reason}");
                        assert_eq!(&file, path);
                        assert!(found == before || found == whole, "torn by write {n}");
                        errors += 1;
                    }
                    Err(error) => panic!("write {n}: {error:?}"),
                }
                let hidden = std::fs::read_dir(folder.path()).unwrap().filter(|entry| {
                    entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.')
                });
                assert_eq!(hidden.count(), 0, "write {n} left a file behind");
                if !refused {
                    break;
                }
            }
            assert!(errors >= 4, "{}: {errors} writes", path.display());
        }
    }
}

#[test]
fn weights_that_the_disk_did_not_take_are_not_done_however_often_it_is_asked() {
    let _turn = alone();
    let device = device();
    let folder = Folder::new("refused-sync");
    let path = folder.path().join("m.safetensors");
    let contents = || {
        let mut contents = Contents::new();
        for name in ["a", "b", "c"] {
            contents.elements(name, DType::F32, &[64]).unwrap();
        }
        contents
    };
    let x = AnyTensor::from(Tensor::full(&device, [64], 1.5f32).unwrap());
    let mut writer = Writer::resume(&path, contents(), "key").unwrap();
    writer.write("a", &x).unwrap();
    writer.sync().unwrap();
    writer.write("b", &x).unwrap();
    let (lost, refused) = with_refusal(0, (libc::EIO, false), || writer.sync());
    assert!(refused && matches!(lost, Err(Error::Io { .. })));
    // The system reports once that it lost something, and has forgotten it by the next time.
    writer.sync().unwrap();
    writer.write("c", &x).unwrap();
    writer.sync().unwrap();
    let done = |writer: &Writer| ["a", "b", "c"].map(|name| writer.is_done(name));
    assert_eq!(done(&writer), [true, false, true]);
    says(&writer.finish().unwrap_err().to_string(), &["\"b\"", "not written"]);
    assert!(!path.exists());
    let mut writer = Writer::resume(&path, contents(), "key").unwrap();
    assert_eq!(done(&writer), [true, false, true]);
    writer.write("b", &x).unwrap();
    writer.finish().unwrap();
    let found = load(&device, &path, Target::Keep).unwrap();
    assert!(found.len() == 3 && found.iter().all(|(_, bytes)| *bytes == raw(&x)));
}
