//! Module-level directives.

use super::Cursor;
use super::ast::{Init, RawFunction, RawModule, Tuning, Ty, VarSpace, Variable};
use super::lexer::Tok;
use crate::error::{Error, Result};

/// No variable is larger: the widest shared memory of a block is 227 KiB, and module-level
/// tables beyond this are not what kernels hold.
const MAX_VARIABLE_BYTES: u64 = 1 << 28;

/// All variables of a module together.
const MAX_MODULE_BYTES: u64 = 1 << 30;

/// Reads a module.
pub(crate) fn parse_module(text: &str) -> Result<RawModule> {
    let mut c = Cursor::new(text)?;
    let mut module = RawModule {
        version: (0, 0),
        target: String::new(),
        files: Vec::new(),
        variables: Vec::new(),
        bytes: 0,
        functions: Vec::new(),
    };
    loop {
        if c.peek() == Tok::End {
            break;
        }
        let Tok::Dot(name) = c.peek() else { return Err(c.unexpected("a directive")) };
        match name {
            "version" => {
                c.bump();
                module.version = version(&mut c)?;
            }
            "target" => {
                c.bump();
                module.target = c.ident("a target such as `sm_90a`")?.to_string();
                while c.eat(',') {
                    c.ident("a target option")?;
                }
            }
            "address_size" => {
                c.bump();
                if c.int("64")? != 64 {
                    return c.fail("only `.address_size 64` is executed");
                }
            }
            "file" => {
                c.bump();
                let id = c.uint32("a file number")?;
                let Tok::Str(path) = c.bump() else { return Err(c.unexpected("a file name")) };
                module.files.push((id, path.to_string()));
                while c.eat(',') {
                    c.int("a number")?;
                }
            }
            "section" => {
                c.bump();
                c.bump();
                skip_braces(&mut c)?;
            }
            "pragma" => {
                c.bump();
                while !c.eat(';') {
                    if c.bump() == Tok::End {
                        return Err(c.unexpected("`;`"));
                    }
                }
            }
            "visible" | "extern" | "weak" | "common" | "entry" | "func" | "global" | "const"
            | "shared" => declaration(&mut c, &mut module)?,
            other => return c.fail(format!("directive `.{other}` is not supported")),
        }
    }
    if module.target.is_empty() {
        return Err(Error::Parse { line: 1, message: "the module declares no `.target`".into() });
    }
    Ok(module)
}

fn version(c: &mut Cursor<'_>) -> Result<(u32, u32)> {
    // `9.0` is read as a decimal float.
    match c.bump() {
        Tok::F64(bits) => {
            let tenths = (f64::from_bits(bits) * 10.0).round();
            if !(10.0..1000.0).contains(&tenths) {
                return c.fail("version is out of range, e.g. `.version 9.0`");
            }
            Ok((tenths as u32 / 10, tenths as u32 % 10))
        }
        _ => c.fail("`.version` needs a number such as 9.0"),
    }
}

fn skip_braces(c: &mut Cursor<'_>) -> Result<()> {
    c.expect('{')?;
    let mut depth = 1;
    while depth > 0 {
        match c.bump() {
            Tok::Punct('{') => depth += 1,
            Tok::Punct('}') => depth -= 1,
            Tok::End => return Err(c.unexpected("`}`")),
            _ => {}
        }
    }
    Ok(())
}

fn declaration(c: &mut Cursor<'_>, module: &mut RawModule) -> Result<()> {
    let mut external = false;
    loop {
        match c.peek() {
            Tok::Dot("visible" | "weak" | "common") => {}
            Tok::Dot("extern") => external = true,
            _ => break,
        }
        c.bump();
    }
    match c.peek() {
        Tok::Dot("entry") => {
            c.bump();
            module.functions.push(function(c, true)?);
        }
        Tok::Dot("func") => {
            c.bump();
            module.functions.push(function(c, false)?);
        }
        Tok::Dot(space @ ("global" | "const" | "shared")) => {
            c.bump();
            let space = match space {
                "global" => VarSpace::Global,
                "const" => VarSpace::Const,
                _ => VarSpace::Shared,
            };
            let read = variables(c, space, external)?;
            let more = read.iter().map(|v| v.bytes).fold(0, u64::saturating_add);
            module.variables.extend(read);
            module.bytes = module.bytes.saturating_add(more);
            if module.bytes > MAX_MODULE_BYTES {
                return c.fail(format!(
                    "the module's variables take over {MAX_MODULE_BYTES} bytes; allocate such \
                     memory from the host"
                ));
            }
        }
        _ => return Err(c.unexpected("`.entry`, `.func`, `.global`, `.const` or `.shared`")),
    }
    Ok(())
}

/// Variables after their space, up to and including the semicolon.
pub(super) fn variables(
    c: &mut Cursor<'_>,
    space: VarSpace,
    external: bool,
) -> Result<Vec<Variable>> {
    let (align, ty, lanes) = qualified_type(c)?;
    let mut out = Vec::new();
    loop {
        let mut v = variable(c, space, align, ty, lanes)?;
        v.external = external;
        if c.eat('=') {
            initialiser(c, &mut v)?;
        }
        out.push(v);
        if !c.eat(',') {
            break;
        }
    }
    c.expect(';')?;
    Ok(out)
}

fn qualified_type(c: &mut Cursor<'_>) -> Result<(Option<u32>, Ty, u32)> {
    let mut align = None;
    let mut lanes = 1;
    loop {
        let Tok::Dot(name) = c.peek() else { return Err(c.unexpected("a type")) };
        c.bump();
        match name {
            "align" => {
                let value = c.uint32("an alignment")?;
                if !value.is_power_of_two() || value > 1 << 20 {
                    return c.fail(format!("alignment {value} is not a power of two up to 2^20"));
                }
                align = Some(value);
            }
            "v2" => lanes = 2,
            "v4" => lanes = 4,
            // `.attribute(.managed)` and friends.
            "attribute" => {
                c.expect('(')?;
                while !c.eat(')') {
                    if c.bump() == Tok::End {
                        return Err(c.unexpected("`)`"));
                    }
                }
            }
            name => match Ty::parse(name) {
                Some(ty) => return Ok((align, ty, lanes)),
                None => return c.fail(format!("`.{name}` is not a type")),
            },
        }
    }
}

fn variable(
    c: &mut Cursor<'_>,
    space: VarSpace,
    align: Option<u32>,
    ty: Ty,
    lanes: u32,
) -> Result<Variable> {
    let line = c.line();
    // `.param .u64 .ptr .global .align 16 name`: the pointee's alignment, not the parameter's.
    while let Tok::Dot(name) = c.peek() {
        c.bump();
        if name == "align" {
            c.int("an alignment")?;
        } else if !matches!(name, "ptr" | "global" | "shared" | "local" | "const") {
            return c.fail(format!("`.{name}` does not belong before a parameter's name"));
        }
    }
    let name = c.ident("a variable name")?.to_string();
    if ty == Ty::Pred {
        return c.fail(format!("variable `{name}` cannot be a predicate"));
    }
    let element = u64::from(ty.bytes()) * u64::from(lanes);
    let mut bytes = element;
    let mut unsized_ = false;
    while c.eat('[') {
        if c.eat(']') {
            unsized_ = true;
            bytes = 0;
            continue;
        }
        let n = c.int("an array size")?;
        c.expect(']')?;
        bytes = match bytes.checked_mul(n) {
            Some(b) if b <= MAX_VARIABLE_BYTES => b,
            _ => return c.fail(format!("variable `{name}` is larger than 2^28 bytes")),
        };
    }
    let align = align.unwrap_or(element.max(1).next_power_of_two() as u32);
    let init = Vec::new();
    Ok(Variable { name, space, ty, align, bytes, unsized_, external: false, init, line })
}

fn initialiser(c: &mut Cursor<'_>, v: &mut Variable) -> Result<()> {
    if c.eat('{') {
        loop {
            if c.eat('}') {
                break;
            }
            if c.is('{') {
                c.nested(|c| initialiser(c, v))?;
            } else {
                v.init.push(init_value(c, v.ty)?);
            }
            if v.init.len() as u64 > MAX_VARIABLE_BYTES {
                return c.fail("initialiser is too long");
            }
            if !c.eat(',') {
                c.expect('}')?;
                break;
            }
        }
    } else {
        v.init.push(init_value(c, v.ty)?);
    }
    if v.unsized_ {
        v.bytes = v.init.len() as u64 * u64::from(v.ty.bytes());
        v.unsized_ = false;
    }
    if v.init.len() as u64 * u64::from(v.ty.bytes()) > v.bytes {
        return c.fail(format!("variable `{}` has more initial values than elements", v.name));
    }
    Ok(())
}

fn init_value(c: &mut Cursor<'_>, ty: Ty) -> Result<Init> {
    let negative = c.eat('-');
    let value = match c.bump() {
        Tok::Int(v) if ty == Ty::F32 => u64::from((v as f32).to_bits()),
        Tok::Int(v) if ty == Ty::F64 => (v as f64).to_bits(),
        Tok::Int(v) => return Ok(Init::Bits(if negative { v.wrapping_neg() } else { v })),
        Tok::F32(bits) if ty == Ty::F64 => f64::from(f32::from_bits(bits)).to_bits(),
        Tok::F32(bits) => u64::from(bits),
        Tok::F64(bits) if ty == Ty::F32 => u64::from((f64::from_bits(bits) as f32).to_bits()),
        Tok::F64(bits) => bits,
        Tok::Ident("generic") if c.is('(') => {
            c.bump();
            let symbol = c.ident("a symbol")?.to_string();
            c.expect(')')?;
            let offset = signed_offset(c)?;
            return Ok(Init::Address { symbol, offset, generic: true });
        }
        Tok::Ident(symbol) => {
            let symbol = symbol.to_string();
            let offset = signed_offset(c)?;
            return Ok(Init::Address { symbol, offset, generic: false });
        }
        _ => {
            c.at = c.at.saturating_sub(1);
            return Err(c.unexpected("an initial value"));
        }
    };
    let sign = if ty == Ty::F64 { 1 << 63 } else { 1 << 31 };
    Ok(Init::Bits(if negative { value ^ sign } else { value }))
}

/// `+ 4`, `-4`, `+-4` or nothing.
pub(super) fn signed_offset(c: &mut Cursor<'_>) -> Result<i64> {
    let plus = c.eat('+');
    let minus = c.eat('-');
    if !plus && !minus {
        return Ok(0);
    }
    let value = c.int("an offset")? as i64;
    Ok(if minus { value.wrapping_neg() } else { value })
}

fn function(c: &mut Cursor<'_>, entry: bool) -> Result<RawFunction> {
    let line = c.line();
    let mut returns = Vec::new();
    if !entry {
        // `.func .attribute(…) (.param …) name`
        if c.eat_dot("attribute") {
            c.expect('(')?;
            while !c.eat(')') {
                if c.bump() == Tok::End {
                    return Err(c.unexpected("`)`"));
                }
            }
        }
        if c.is('(') {
            returns = params(c)?;
        }
    }
    let name = c.ident("a function name")?.to_string();
    let params = if c.is('(') { params(c)? } else { Vec::new() };
    let mut tuning = Tuning::default();
    loop {
        match c.peek() {
            Tok::Dot("maxntid") => tuning.max_ntid = Some(triple(c)?),
            Tok::Dot("reqntid") => tuning.req_ntid = Some(triple(c)?),
            Tok::Dot("reqnctapercluster") => tuning.req_cluster = Some(triple(c)?),
            Tok::Dot("minnctapersm") => tuning.min_ctas = Some(triple(c)?[0]),
            Tok::Dot("maxnreg") => tuning.max_nreg = Some(triple(c)?[0]),
            Tok::Dot("maxclusterrank") => {
                triple(c)?;
            }
            Tok::Dot("noreturn" | "explicitcluster") => {
                c.bump();
            }
            Tok::Dot("pragma") => {
                while !c.eat(';') {
                    if c.bump() == Tok::End {
                        return Err(c.unexpected("`;`"));
                    }
                }
            }
            _ => break,
        }
    }
    let body = if c.eat(';') {
        None
    } else if c.is('{') {
        Some(super::body::body(c)?)
    } else {
        return Err(c.unexpected("`{` or `;`"));
    };
    Ok(RawFunction { name, entry, returns, params, tuning, body, line })
}

fn triple(c: &mut Cursor<'_>) -> Result<[u32; 3]> {
    c.bump();
    let mut out = [1; 3];
    out[0] = c.uint32("a count")?;
    for slot in &mut out[1..] {
        if !c.eat(',') {
            break;
        }
        *slot = c.uint32("a count")?;
    }
    Ok(out)
}

fn params(c: &mut Cursor<'_>) -> Result<Vec<Variable>> {
    c.expect('(')?;
    let mut out = Vec::new();
    if c.eat(')') {
        return Ok(out);
    }
    loop {
        if !c.eat_dot("param") && !c.eat_dot("reg") {
            return Err(c.unexpected("`.param`"));
        }
        let (align, ty, lanes) = qualified_type(c)?;
        out.push(variable(c, VarSpace::Param, align, ty, lanes)?);
        if !c.eat(',') {
            c.expect(')')?;
            return Ok(out);
        }
    }
}
