//! What single machine instructions do: products, and bytes that a warp moves.

use super::listing::Instruction;

const LANES: u64 = 32;

/// A kind of unit that executes instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Matrix,
    SharedRead,
    SharedWrite,
    Copy,
    Global,
    Local,
    Float,
    Convert,
    Other,
    Control,
}

impl Group {
    pub const ALL: [(Group, &'static str); 10] = [
        (Group::Matrix, "mma"),
        (Group::SharedRead, "ldsm/lds"),
        (Group::SharedWrite, "sts"),
        (Group::Copy, "cp.async"),
        (Group::Global, "ldg/stg"),
        (Group::Local, "local"),
        (Group::Float, "float"),
        (Group::Convert, "convert"),
        (Group::Other, "integer"),
        (Group::Control, "control"),
    ];

    pub fn of(instruction: &Instruction) -> Group {
        match instruction.base() {
            "HMMA" | "QMMA" | "OMMA" | "IMMA" | "HGMMA" | "QGMMA" | "IGMMA" => Group::Matrix,
            "LDSM" | "LDS" => Group::SharedRead,
            "STS" | "STSM" => Group::SharedWrite,
            "LDGSTS" | "UTMALDG" | "UBLKCP" | "UTMASTG" => Group::Copy,
            "LDG" | "STG" | "LD" | "ST" | "ATOMG" | "ATOM" | "RED" | "REDG" => Group::Global,
            "LDL" | "STL" => Group::Local,
            "FADD" | "FMUL" | "FFMA" | "FMNMX" | "FSEL" | "FSETP" | "FSET" | "MUFU" | "FMNMX3"
            | "HADD2" | "HMUL2" | "HFMA2" | "HMNMX2" | "FADD2" | "FMUL2" | "FFMA2" => Group::Float,
            "F2F" | "F2FP" | "F2I" | "I2F" | "I2FP" | "F2IP" => Group::Convert,
            "BRA" | "BRX" | "BRXU" | "BAR" | "BSSY" | "BSYNC" | "BREAK" | "NOP" | "WARPSYNC"
            | "DEPBAR" | "LDGDEPBAR" | "EXIT" | "CALL" | "RET" | "SYNCS" | "NANOSLEEP"
            | "YIELD" | "ARRIVES" | "WARPGROUP" => Group::Control,
            _ => Group::Other,
        }
    }
}

/// Multiply-adds of a matrix instruction, for one warp; 0 for others.
pub fn products(instruction: &Instruction) -> u64 {
    if Group::of(instruction) != Group::Matrix {
        return 0;
    }
    // `16816`: 16 × 8 × 16 of a warp. `64x128x16`: of four warps together.
    instruction.name.split('.').find_map(shape).unwrap_or(0)
}

fn shape(modifier: &str) -> Option<u64> {
    let numbers = |parts: &mut dyn Iterator<Item = &str>| -> Option<Vec<u64>> {
        parts.map(|part| part.parse().ok()).collect()
    };
    if let [m, n, k] = numbers(&mut modifier.split('x'))?[..] {
        return Some(m * n * k / 4);
    }
    let k = modifier.strip_prefix("168")?;
    Some(16 * 8 * k.parse::<u64>().ok().filter(|k| [4, 8, 16, 32, 64].contains(k))?)
}

/// Bytes of global memory that a warp reads or writes, if all its lanes do; bulk copies, whose
/// size is in a descriptor, count as one byte.
pub fn global_bytes(instruction: &Instruction) -> u64 {
    match (Group::of(instruction), instruction.base()) {
        (_, "UTMALDG" | "UTMASTG" | "UBLKCP") => 1,
        (Group::Copy | Group::Global, _) => LANES * width(instruction),
        _ => 0,
    }
}

/// Those of them that are copied to shared memory while the warp goes on.
pub fn copied_bytes(instruction: &Instruction) -> u64 {
    if Group::of(instruction) == Group::Copy { global_bytes(instruction) } else { 0 }
}

/// Bytes of shared memory that a warp reads, counted for each lane.
pub fn shared_read(instruction: &Instruction) -> u64 {
    match instruction.base() {
        // Matrices of 8 × 8 elements of 16 bits.
        "LDSM" => 128 * matrices(instruction),
        "LDS" => LANES * width(instruction),
        _ => 0,
    }
}

/// Bytes of shared memory that a warp writes.
pub fn shared_written(instruction: &Instruction) -> u64 {
    match instruction.base() {
        "STSM" => 128 * matrices(instruction),
        "STS" | "LDGSTS" => LANES * width(instruction),
        _ => 0,
    }
}

fn matrices(instruction: &Instruction) -> u64 {
    [4, 2].into_iter().find(|n| instruction.has(&n.to_string())).unwrap_or(1)
}

/// Bytes of a lane.
fn width(instruction: &Instruction) -> u64 {
    let widths = [("128", 16), ("64", 8), ("U8", 1), ("S8", 1), ("U16", 2), ("S16", 2)];
    widths.into_iter().find(|(name, _)| instruction.has(name)).map_or(4, |(_, bytes)| bytes)
}

#[cfg(test)]
mod tests {
    use super::super::listing::blocks;
    use super::*;

    fn one(text: &str) -> Instruction {
        let listing = format!(".text.k:\n /*0000*/ {text} ;\n");
        blocks(&listing, "k").unwrap().remove(0).instructions.remove(0)
    }

    #[test]
    fn products_follow_from_the_shape() {
        for (text, expected) in [
            ("HMMA.16816.F32.BF16 R4, R8, R2, R4", 16 * 8 * 16),
            ("HMMA.1688.F32 R4, R8, R2, R4", 16 * 8 * 8),
            ("QMMA.16832.F32.E4M3.E4M3 R4, R8, R2, R4", 16 * 8 * 32),
            ("QMMA.SF.16832.F32.E4M3.E5M2.E8 R4, R8, R2, R4, R1, R2", 16 * 8 * 32),
            ("OMMA.SF.16864.F32.E2M1.E2M1.UE4M3.4X R4, R8, R2, R4, R1, R2, URZ", 16 * 8 * 64),
            ("HGMMA.64x128x16.F32.BF16 R24, gdesc[UR4], R24", 64 * 128 * 16 / 4),
            ("FFMA R1, R2, R3, R4", 0),
        ] {
            assert_eq!(products(&one(text)), expected, "{text}");
        }
    }

    #[test]
    fn bytes_follow_from_width_and_matrices() {
        assert_eq!(shared_read(&one("LDSM.16.M88.4 R92, [R68+0x1000]")), 512);
        assert_eq!(shared_read(&one("LDSM.16.MT88.2 R92, [R68]")), 256);
        assert_eq!(shared_read(&one("LDS.128 R16, [R70+UR6+0x8800]")), 512);
        assert_eq!(shared_read(&one("LDS R16, [R70]")), 128);
        let copy = one("LDGSTS.E.BYPASS.LTC128B.128 [R3], desc[UR8][R4.64], P1");
        assert_eq!((global_bytes(&copy), shared_written(&copy)), (512, 512));
        assert_eq!(global_bytes(&one("LDG.E.U8 R3, desc[UR8][R2.64]")), 32);
        assert_eq!(global_bytes(&one("STG.E.64 desc[UR8][R2.64], R4")), 256);
        assert_eq!(global_bytes(&one("LDS.64 R1, [R2]")), 0);
    }
}
