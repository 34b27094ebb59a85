//! What the parser hands to lowering.

use std::ops::Range;

/// A scalar type as written in declarations and instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ty {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    B8,
    B16,
    B32,
    B64,
    B128,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    U16x2,
    S16x2,
    F32,
    F32x2,
    F64,
    Pred,
}

impl Ty {
    /// The type with this name, if there is one.
    pub fn parse(name: &str) -> Option<Ty> {
        Some(match name {
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "b128" => Ty::B128,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "u16x2" => Ty::U16x2,
            "s16x2" => Ty::S16x2,
            "f32" => Ty::F32,
            "f32x2" => Ty::F32x2,
            "f64" => Ty::F64,
            "pred" => Ty::Pred,
            _ => return None,
        })
    }

    /// Bits of one value; a predicate has one.
    pub fn bits(self) -> u32 {
        match self {
            Ty::U8 | Ty::S8 | Ty::B8 => 8,
            Ty::U16 | Ty::S16 | Ty::B16 | Ty::F16 | Ty::Bf16 => 16,
            Ty::U32 | Ty::S32 | Ty::B32 | Ty::F32 => 32,
            Ty::F16x2 | Ty::Bf16x2 | Ty::U16x2 | Ty::S16x2 => 32,
            Ty::U64 | Ty::S64 | Ty::B64 | Ty::F64 | Ty::F32x2 => 64,
            Ty::B128 => 128,
            Ty::Pred => 1,
        }
    }

    /// Bytes in memory.
    pub fn bytes(self) -> u32 {
        self.bits() / 8
    }

    /// Whether values are signed integers.
    pub fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64 | Ty::S16x2)
    }

    /// Whether values are scalar floats.
    pub fn float(self) -> bool {
        matches!(self, Ty::F16 | Ty::Bf16 | Ty::F32 | Ty::F64)
    }
}

/// One operand as written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// A register, a symbol, a label; with the part after a dot, if any (`%tid.x`).
    Name(String, Option<String>),
    /// A symbol plus a byte offset.
    Offset(String, i64),
    /// An integer, negated values as two's complement.
    Int(u64),
    /// Bits of an f32.
    F32(u32),
    /// Bits of an f64.
    F64(u64),
    /// `{a, b, …}`.
    Vector(Vec<Operand>),
    /// `[base + offset]`; further members for tensor coordinates.
    Address { base: Box<Operand>, offset: i64, more: Vec<Operand> },
    /// `p|q`.
    Pair(Box<Operand>, Box<Operand>),
    /// `!p`.
    Not(Box<Operand>),
    /// `(a, b)`: arguments of a call.
    List(Vec<Operand>),
}

/// One instruction as written.
#[derive(Debug, Clone)]
pub(crate) struct RawInst {
    pub guard: Option<(String, bool)>,
    pub opcode: String,
    pub mods: Vec<String>,
    pub operands: Vec<Operand>,
    pub line: u32,
    pub span: Range<usize>,
    /// What the last `.loc` says.
    pub loc: Option<Loc>,
}

/// A place in the source: index of the file and line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loc {
    pub at: (u32, u32),
    /// Where the function that holds it was inlined.
    pub inlined: Option<(u32, u32)>,
}

/// A declared variable.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub name: String,
    pub space: VarSpace,
    pub ty: Ty,
    pub align: u32,
    pub bytes: u64,
    /// Declared without a size (`name[]`).
    pub unsized_: bool,
    pub external: bool,
    pub init: Vec<Init>,
    pub line: u32,
}

/// Where a variable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VarSpace {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// One element of an initialiser.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Init {
    /// The bits of the value.
    Bits(u64),
    /// The address of a symbol plus an offset; `generic(symbol)` when set.
    Address { symbol: String, offset: i64, generic: bool },
}

/// A register name with its width, after numbered ranges are written out.
#[derive(Debug, Clone)]
pub(crate) struct RegDecl {
    pub name: String,
    pub ty: Ty,
    /// `%r<10>` declares `%r0` to `%r9`.
    pub count: Option<u32>,
    pub line: u32,
}

/// A piece of a body.
#[derive(Debug, Clone)]
pub(crate) enum Stmt {
    Inst(RawInst),
    Label(String, u32),
    Reg(RegDecl),
    Var(Variable),
    /// `.branchtargets` of a `brx.idx` table.
    Targets(String, Vec<String>),
    Open,
    Close,
}

/// Performance directives of an entry.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tuning {
    pub max_ntid: Option<[u32; 3]>,
    pub req_ntid: Option<[u32; 3]>,
    pub max_nreg: Option<u32>,
    pub min_ctas: Option<u32>,
    pub req_cluster: Option<[u32; 3]>,
}

/// A kernel or a function.
#[derive(Debug, Clone)]
pub(crate) struct RawFunction {
    pub name: String,
    pub entry: bool,
    pub returns: Vec<Variable>,
    pub params: Vec<Variable>,
    pub tuning: Tuning,
    /// `None` for a declaration.
    pub body: Option<Vec<Stmt>>,
    pub line: u32,
}

/// A whole module.
#[derive(Debug, Clone)]
pub(crate) struct RawModule {
    pub version: (u32, u32),
    pub target: String,
    pub files: Vec<(u32, String)>,
    pub variables: Vec<Variable>,
    /// Of all variables.
    pub bytes: u64,
    pub functions: Vec<RawFunction>,
}
