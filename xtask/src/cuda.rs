//! NVIDIA's run-time compiler and the headers that kernels include: what turns CUDA C++ into
//! PTX, without a toolkit, a driver or a GPU; and the tools that show the machine code of it.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::package::{self, Bundle, Kind, Package};

/// NVRTC 13.0 for x86-64. `ptx-vm`'s tests and the CUDA backend look in this folder.
const X86_64: Bundle = Bundle {
    folder: "cuda/13.0",
    packages: &[
        Package {
            name: "nvidia-cuda-nvrtc",
            version: "13.0.88",
            sha256: "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
            size: 90_215_200,
            kind: Kind::Platform("manylinux2010_x86_64"),
        },
        Package {
            name: "nvidia-cuda-runtime",
            version: "13.0.96",
            sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
            size: 2_243_632,
            kind: Kind::Platform("manylinux2014_x86_64"),
        },
        Package {
            name: "nvidia-cuda-crt",
            version: "13.0.88",
            sha256: "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
            size: 134_086,
            kind: Kind::Platform("manylinux2014_x86_64"),
        },
    ],
    place,
};

/// The same for 64-bit Arm.
const AARCH64: Bundle = Bundle {
    folder: "cuda/13.0",
    packages: &[
        Package {
            name: "nvidia-cuda-nvrtc",
            version: "13.0.88",
            sha256: "d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b",
            size: 43_015_449,
            kind: Kind::Platform("manylinux2014_aarch64"),
        },
        Package {
            name: "nvidia-cuda-runtime",
            version: "13.0.96",
            sha256: "ef9bcbe90493a2b9d810e43d249adb3d02e98dd30200d86607d8d02687c43f55",
            size: 2_261_060,
            kind: Kind::Platform("manylinux2014_aarch64"),
        },
        Package {
            name: "nvidia-cuda-crt",
            version: "13.0.88",
            sha256: "ee2ea2a97073e02ee62bb27841f437332be2c248e3eac013df07997ada39c003",
            size: 134_086,
            kind: Kind::Platform("manylinux2014_aarch64"),
        },
    ],
    place,
};

/// What shows the machine code of a kernel: NVIDIA's assembler and disassembler, for x86-64.
const SASS_X86_64: Bundle = Bundle {
    folder: "cuda/13.0-sass",
    packages: &[
        Package {
            name: "nvidia-cuda-nvcc",
            version: "13.0.88",
            sha256: "56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03",
            size: 37_384_532,
            kind: Kind::Platform("manylinux2014_x86_64"),
        },
        Package {
            name: "nvidia-cuda-cuobjdump",
            version: "13.2.51",
            sha256: "95c69d3ddf0c2c1f535ec44c3433a66aeee19f588d9d22f73356e20b25f12b50",
            size: 343_823,
            kind: Kind::Platform("manylinux2014_x86_64"),
        },
        Package {
            name: "nvidia-cuda-nvdisasm",
            version: "13.2.51",
            sha256: "5a7acf77c55d6d2911ed6155d4d5bc156ffadf9df7a68a89b0c1155f4b13688c",
            size: 4_418_606,
            kind: Kind::Platform("manylinux2014_x86_64"),
        },
    ],
    place: place_tool,
};

/// The same for 64-bit Arm.
const SASS_AARCH64: Bundle = Bundle {
    folder: "cuda/13.0-sass",
    packages: &[
        Package {
            name: "nvidia-cuda-nvcc",
            version: "13.0.88",
            sha256: "c7ff28f86a24effdc6c034fa15230c549a273e4771b10a7fec14996f8cf3307f",
            size: 32_455_430,
            kind: Kind::Platform("manylinux2014_aarch64"),
        },
        Package {
            name: "nvidia-cuda-cuobjdump",
            version: "13.2.51",
            sha256: "f2f3bc433a91f4ff910841f2de8bc9e7ce92556602d6e363054fe2bb62a587c4",
            size: 318_981,
            kind: Kind::Platform("manylinux2014_aarch64"),
        },
        Package {
            name: "nvidia-cuda-nvdisasm",
            version: "13.2.51",
            sha256: "483c8f652c1ca006135584b4faf7ea1d2bafe4c40ec1c9ef57a04c6acfbdd57f",
            size: 4_338_166,
            kind: Kind::Platform("manylinux2014_aarch64"),
        },
    ],
    place: place_tool,
};

/// `lib/` gets the compiler, `include/` the headers; the rest of the wheels stays out.
fn place(member: &str) -> Option<String> {
    let path = member.strip_prefix("nvidia/cu13/");
    match path {
        Some(p) if p.starts_with("include/") => Some(p.to_owned()),
        Some("lib/libnvrtc.so.13" | "lib/libnvrtc-builtins.so.13.0") => path.map(str::to_owned),
        _ => None,
    }
}

/// The programs `ptxas`, `cuobjdump` and `nvdisasm` go to `bin/`.
fn place_tool(member: &str) -> Option<String> {
    let tool = member.strip_prefix("nvidia/cu13/bin/")?;
    matches!(tool, "ptxas" | "cuobjdump" | "nvdisasm").then(|| format!("bin/{tool}"))
}

/// The folder with `lib/libnvrtc.so.13`, fetched on first use.
pub fn fetch() -> Result<PathBuf> {
    let hint = "; set FERROCERIUM_NVRTC_DIR to the folder of a libnvrtc.so.13";
    install("NVRTC", &X86_64, &AARCH64, hint)
}

/// The folder with `bin/ptxas`, `bin/cuobjdump` and `bin/nvdisasm`, fetched on first use.
pub fn fetch_sass_tools() -> Result<PathBuf> {
    install("ptxas", &SASS_X86_64, &SASS_AARCH64, "")
}

/// The folder of [`fetch_sass_tools`] if it was fetched.
#[cfg(all(test, feature = "sass"))]
pub fn installed_sass_tools() -> Option<PathBuf> {
    package::installed(of_machine(&SASS_X86_64, &SASS_AARCH64)?)
}

/// Installs what is for this machine.
fn install(what: &str, x86_64: &Bundle, aarch64: &Bundle, hint: &str) -> Result<PathBuf> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    match of_machine(x86_64, aarch64) {
        Some(bundle) => package::install(bundle),
        None => bail!("there is no {what} wheel for {os} on {arch}{hint}"),
    }
}

fn of_machine<'a, 'b>(x86_64: &'a Bundle<'b>, aarch64: &'a Bundle<'b>) -> Option<&'a Bundle<'b>> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Some(x86_64),
        ("linux", "aarch64") => Some(aarch64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{place, place_tool};

    #[test]
    fn only_the_compiler_and_headers_are_unpacked() {
        assert_eq!(place("nvidia/cu13/lib/libnvrtc.so.13").as_deref(), Some("lib/libnvrtc.so.13"));
        assert_eq!(place("nvidia/cu13/include/crt/mma.h").as_deref(), Some("include/crt/mma.h"));
        assert_eq!(place("nvidia/cu13/lib/libnvrtc.alt.so.13"), None);
        assert_eq!(place("nvidia_cuda_nvrtc-13.0.88.dist-info/METADATA"), None);
    }

    #[test]
    fn only_the_tools_that_read_and_write_machine_code_are_unpacked() {
        assert_eq!(place_tool("nvidia/cu13/bin/ptxas").as_deref(), Some("bin/ptxas"));
        assert_eq!(place_tool("nvidia/cu13/bin/nvlink"), None);
        assert_eq!(place_tool("nvidia/cu13/nvvm/bin/cicc"), None);
    }
}
