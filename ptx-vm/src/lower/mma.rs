//! `mma.sync`.

use super::decode::Decoder;
use super::ops::Op;
use crate::error::Result;
use crate::exec::mma::{MmaOp, ScaleOps};
use crate::numeric::element::{Accumulator, Element, ScaleFormat};
use crate::parse::ast::{Operand, Ty};

impl Decoder<'_, '_> {
    pub(super) fn mma(&mut self) -> Result<()> {
        self.need_sync()?;
        for part in ["aligned", "row", "col"] {
            self.need(part)?;
        }
        let Some((m, k)) = self.mods.find(shape) else {
            return Err(self.error("the shape is not supported"));
        };
        let kind =
            self.mods.one_of(&["kind::f8f6f4", "kind::mxf8f6f4", "kind::mxf4", "kind::mxf4nvf4"]);
        let scaled = self.mods.take("block_scale");
        let vec = self.mods.one_of(&["scale_vec::1X", "scale_vec::2X", "scale_vec::4X"]);
        let saturate = self.mods.take("satfinite");
        let packed = matches!(kind, Some("kind::mxf4" | "kind::mxf4nvf4"));
        let d = self.mods.find(accumulator);
        let a = self.mods.find(|m| element(m, packed, kind.is_some()));
        let b = self.mods.find(|m| element(m, packed, kind.is_some()));
        let c = self.mods.find(accumulator);
        let (Some(d), Some(a), Some(b), Some(c)) = (d, a, b, c) else {
            return Err(self.error("four types are expected: of D, A, B and C"));
        };
        self.check_legal(kind, m, k, d, a, b, c)?;
        let registers = |rows: u32, e: Element| {
            (rows as usize * k as usize * e.container_bits() as usize).div_ceil(32 * 32)
        };
        let (na, nb) = (registers(m, a), registers(8, b));
        let nc = m as usize * 8 * c.bits() as usize / (32 * 32);
        let nd = m as usize * 8 * d.bits() as usize / (32 * 32);
        let scale_format = self.mods.find(|m| match m {
            "ue8m0" => Some(ScaleFormat::Ue8m0),
            "ue4m3" => Some(ScaleFormat::Ue4m3),
            _ => None,
        });
        let per_row = self.scale_vector(kind, scaled, vec, scale_format)?;
        self.finish(if scaled { 8 } else { 4 })?;
        let ty = |acc: Accumulator| match acc {
            Accumulator::F32 => Ty::F32,
            Accumulator::F16 => Ty::B32,
            Accumulator::S32 => Ty::S32,
        };
        let op = MmaOp {
            m,
            k,
            a,
            b,
            c,
            d,
            saturate,
            d_regs: self.dst_vector(0, nd, ty(d))?,
            a_regs: self.src_vector(1, na, Ty::B32)?,
            b_regs: self.src_vector(2, nb, Ty::B32)?,
            c_regs: self.src_vector(3, nc, ty(c))?,
            scales: match (per_row, scale_format) {
                (Some(per_row), Some(format)) => Some(self.scales(per_row, format)?),
                _ => None,
            },
        };
        self.emit(Op::Mma(Box::new(op)));
        Ok(())
    }

    fn scales(&mut self, per_row: u32, format: ScaleFormat) -> Result<ScaleOps> {
        // One register, in braces or not.
        let a = self.src_vector(4, 1, Ty::B32)?[0];
        let (a_byte, a_thread) = self.selector(5, per_row, 1)?;
        let b = self.src_vector(6, 1, Ty::B32)?[0];
        let (b_byte, b_thread) = self.selector(7, per_row, 3)?;
        Ok(ScaleOps { per_row, format, a, a_byte, a_thread, b, b_byte, b_thread })
    }

    /// `{byte-id, thread-id}`: numbers, or registers that must hold the same in all lanes.
    fn selector(&mut self, i: usize, per_row: u32, max_thread: u64) -> Result<(u32, u32)> {
        let parts = self.elements(i)?;
        if parts.len() != 2 {
            return Err(self.error("a byte and a thread selector are expected"));
        }
        for (n, part) in parts.iter().enumerate() {
            if let Operand::Int(v) = part {
                let ok = match (n, per_row) {
                    (0, 1) => *v <= 3,
                    (0, 2) => *v == 0 || *v == 2,
                    (0, _) => *v == 0,
                    _ => *v <= max_thread,
                };
                if !ok {
                    let message = format!("selector {v} is out of range for these scales");
                    return Err(self.error(message));
                }
            }
        }
        Ok((self.src_of(&parts[0], Ty::U16)?, self.src_of(&parts[1], Ty::U16)?))
    }

    fn scale_vector(
        &mut self,
        kind: Option<&str>,
        scaled: bool,
        vec: Option<&str>,
        format: Option<ScaleFormat>,
    ) -> Result<Option<u32>> {
        use ScaleFormat::{Ue4m3, Ue8m0};
        match (kind, scaled, vec, format) {
            (None | Some("kind::f8f6f4"), false, None, None) => Ok(None),
            (Some("kind::mxf8f6f4"), true, None | Some("scale_vec::1X"), Some(Ue8m0)) => {
                Ok(Some(1))
            }
            (Some("kind::mxf4"), true, None | Some("scale_vec::2X"), Some(Ue8m0)) => Ok(Some(2)),
            (Some("kind::mxf4nvf4"), true, Some("scale_vec::2X"), Some(Ue8m0)) => Ok(Some(2)),
            (Some("kind::mxf4nvf4"), true, Some("scale_vec::4X"), Some(Ue4m3)) => Ok(Some(4)),
            _ => Err(self.error("kind, scale vector and scale type do not go together")),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn check_legal(
        &self,
        kind: Option<&str>,
        m: u32,
        k: u32,
        d: Accumulator,
        a: Element,
        b: Element,
        c: Accumulator,
    ) -> Result<()> {
        use Accumulator::{F16, F32, S32};
        use Element as E;
        let target = self.b.ctx.target;
        if kind.is_some() {
            self.require(
                target.blackwell_consumer(),
                "an architecture- or family-specific target: sm_120a, sm_121a or sm_120f",
            )?;
        }
        let float_acc = matches!((d, c), (F32, F32) | (F16, F16));
        let shape_ok = match kind {
            Some("kind::f8f6f4") => {
                m == 16 && k == 32 && float_acc && a.narrow_float() && b.narrow_float()
            }
            Some("kind::mxf8f6f4") => {
                m == 16 && k == 32 && (d, c) == (F32, F32) && a.narrow_float() && b.narrow_float()
            }
            Some(_) => m == 16 && k == 64 && (d, c) == (F32, F32) && a == E::E2m1 && b == E::E2m1,
            None => match (a, b) {
                (E::F16, E::F16) => {
                    m == 16 && matches!(k, 8 | 16) && matches!((d, c), (F32 | F16, F32 | F16))
                }
                (E::Bf16, E::Bf16) => m == 16 && matches!(k, 8 | 16) && (d, c) == (F32, F32),
                (E::Tf32, E::Tf32) => m == 16 && matches!(k, 4 | 8) && (d, c) == (F32, F32),
                (E::E4m3 | E::E5m2, E::E4m3 | E::E5m2) => {
                    m == 16 && matches!(k, 16 | 32) && float_acc
                }
                (E::S8 | E::U8, E::S8 | E::U8) => {
                    (d, c) == (S32, S32) && (m == 16 && matches!(k, 16 | 32) || m == 8 && k == 16)
                }
                (E::S4 | E::U4, E::S4 | E::U4) => {
                    (d, c) == (S32, S32) && (m == 16 && matches!(k, 32 | 64) || m == 8 && k == 32)
                }
                _ => false,
            },
        };
        if !shape_ok {
            return Err(self.error("shape and types do not go together"));
        }
        match a {
            E::F16 if k == 8 => self.require(target.at_least(75), "sm_75 or newer"),
            E::E4m3 | E::E5m2 if kind.is_none() => {
                self.require(target.at_least(89), "sm_89 or newer")
            }
            _ if m == 8 => self.require(target.at_least(75), "sm_75 or newer"),
            _ => self.require(target.at_least(80), "sm_80 or newer"),
        }
    }
}

fn shape(m: &str) -> Option<(u32, u32)> {
    Some(match m {
        "m16n8k4" => (16, 4),
        "m16n8k8" => (16, 8),
        "m16n8k16" => (16, 16),
        "m16n8k32" => (16, 32),
        "m16n8k64" => (16, 64),
        "m8n8k16" => (8, 16),
        "m8n8k32" => (8, 32),
        _ => return None,
    })
}

pub(super) fn accumulator(m: &str) -> Option<Accumulator> {
    Some(match m {
        "f32" => Accumulator::F32,
        "f16" => Accumulator::F16,
        "s32" => Accumulator::S32,
        _ => return None,
    })
}

fn element(m: &str, packed: bool, kind: bool) -> Option<Element> {
    Some(match m {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "e4m3" => Element::E4m3,
        "e5m2" => Element::E5m2,
        "e3m2" if kind => Element::E3m2,
        "e2m3" if kind => Element::E2m3,
        "e2m1" if packed => Element::E2m1,
        "e2m1" if kind => Element::E2m1Byte,
        "s8" => Element::S8,
        "u8" => Element::U8,
        "s4" => Element::S4,
        "u4" => Element::U4,
        _ => return None,
    })
}
