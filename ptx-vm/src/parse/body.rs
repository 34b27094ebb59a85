//! Statements and operands of a function body.

use super::Cursor;
use super::ast::{Loc, Operand, RawInst, RegDecl, Stmt, Ty, VarSpace};
use super::lexer::Tok;
use super::module::{signed_offset, variables};
use crate::error::Result;

/// Scopes nest at most this deep: every name is looked for in all of them.
const MAX_SCOPES: u32 = 64;

/// A numbered range of registers is at most this long.
const MAX_REGISTERS: u32 = 1 << 17;

/// Reads `{ … }` of a function; nested scopes stay as `Open` and `Close`.
pub(super) fn body(c: &mut Cursor<'_>) -> Result<Vec<Stmt>> {
    c.expect('{')?;
    c.loc = None;
    let mut out = Vec::new();
    let mut depth = 0u32;
    loop {
        match c.peek() {
            Tok::Punct('{') => {
                if depth >= MAX_SCOPES {
                    return c.fail(format!("scopes are nested deeper than {MAX_SCOPES}"));
                }
                c.bump();
                depth += 1;
                out.push(Stmt::Open);
            }
            Tok::Punct('}') => {
                c.bump();
                if depth == 0 {
                    return Ok(out);
                }
                depth -= 1;
                out.push(Stmt::Close);
            }
            Tok::Punct(';') => {
                c.bump();
            }
            Tok::Dot(name) => directive(c, name, &mut out)?,
            Tok::Ident(name) if c.peek_at(1) == Tok::Punct(':') => {
                let line = c.line();
                c.bump();
                c.bump();
                if c.eat_dot("branchtargets") {
                    let mut targets = Vec::new();
                    loop {
                        targets.push(c.ident("a label")?.to_string());
                        if !c.eat(',') {
                            break;
                        }
                    }
                    c.expect(';')?;
                    out.push(Stmt::Targets(name.to_string(), targets));
                } else if c.peek() == Tok::Dot("callprototype") {
                    return c.fail("indirect calls (`.callprototype`) are not supported");
                } else {
                    out.push(Stmt::Label(name.to_string(), line));
                }
            }
            Tok::Ident(_) | Tok::Punct('@') => {
                let inst = instruction(c)?;
                out.push(Stmt::Inst(inst));
            }
            _ => return Err(c.unexpected("a statement")),
        }
    }
}

fn directive(c: &mut Cursor<'_>, name: &str, out: &mut Vec<Stmt>) -> Result<()> {
    match name {
        "reg" => {
            c.bump();
            let Tok::Dot(ty) = c.bump() else { return c.fail("`.reg` needs a type") };
            let Some(ty) = Ty::parse(ty) else {
                return c.fail(format!("`.{ty}` is not a register type"));
            };
            loop {
                let line = c.line();
                let name = c.ident("a register name")?.to_string();
                let mut count = None;
                if c.eat('<') {
                    let n = c.uint32("a register count")?;
                    if n > MAX_REGISTERS {
                        return c.fail(format!("{n} registers, at most {MAX_REGISTERS} are taken"));
                    }
                    c.expect('>')?;
                    count = Some(n);
                }
                out.push(Stmt::Reg(RegDecl { name, ty, count, line }));
                if !c.eat(',') {
                    break;
                }
            }
            c.expect(';')
        }
        "local" | "shared" | "param" | "global" | "const" => {
            c.bump();
            let space = match name {
                "local" => VarSpace::Local,
                "shared" => VarSpace::Shared,
                "param" => VarSpace::Param,
                "global" => VarSpace::Global,
                _ => VarSpace::Const,
            };
            out.extend(variables(c, space, false)?.into_iter().map(Stmt::Var));
            Ok(())
        }
        "loc" => {
            c.bump();
            let file = c.uint32("a file number")?;
            let line = c.uint32("a line number")?;
            c.int("a column")?;
            let mut inlined = None;
            if c.eat(',') {
                // `function_name symbol[+n], inlined_at file line column`
                c.ident("`function_name`")?;
                c.ident("a label")?;
                signed_offset(c)?;
                c.expect(',')?;
                c.ident("`inlined_at`")?;
                inlined = Some((c.uint32("a file number")?, c.uint32("a line number")?));
                c.int("a column")?;
            }
            c.loc = Some(Loc { at: (file, line), inlined });
            Ok(())
        }
        "pragma" => {
            while !c.eat(';') {
                if c.bump() == Tok::End {
                    return Err(c.unexpected("`;`"));
                }
            }
            Ok(())
        }
        other => c.fail(format!("directive `.{other}` is not supported in a function")),
    }
}

fn instruction(c: &mut Cursor<'_>) -> Result<RawInst> {
    let line = c.line();
    let start = c.start();
    let mut guard = None;
    if c.eat('@') {
        let negated = c.eat('!');
        guard = Some((c.ident("a predicate")?.to_string(), negated));
    }
    let opcode = c.ident("an instruction")?.to_string();
    let mut mods = Vec::new();
    while let Tok::Dot(name) = c.peek() {
        c.bump();
        mods.push(name.to_string());
    }
    let mut operands = Vec::new();
    if !c.is(';') {
        loop {
            operands.push(operand(c)?);
            if !c.eat(',') {
                break;
            }
        }
    }
    let end = c.previous_end();
    c.expect(';')?;
    let loc = c.loc;
    Ok(RawInst { guard, opcode, mods, operands, line, span: start..end, loc })
}

fn operand(c: &mut Cursor<'_>) -> Result<Operand> {
    let first = c.nested(single)?;
    if c.eat('|') {
        let second = c.nested(single)?;
        return Ok(Operand::Pair(Box::new(first), Box::new(second)));
    }
    Ok(first)
}

fn list(c: &mut Cursor<'_>, close: char) -> Result<Vec<Operand>> {
    let mut out = Vec::new();
    if c.eat(close) {
        return Ok(out);
    }
    loop {
        out.push(operand(c)?);
        if !c.eat(',') {
            c.expect(close)?;
            return Ok(out);
        }
    }
}

fn single(c: &mut Cursor<'_>) -> Result<Operand> {
    match c.peek() {
        Tok::Punct('{') => {
            c.bump();
            Ok(Operand::Vector(list(c, '}')?))
        }
        Tok::Punct('(') => {
            c.bump();
            Ok(Operand::List(list(c, ')')?))
        }
        Tok::Punct('!') => {
            c.bump();
            Ok(Operand::Not(Box::new(c.nested(single)?)))
        }
        Tok::Punct('[') => {
            c.bump();
            let base = c.nested(single)?;
            let (base, inner) = match base {
                Operand::Offset(name, offset) => (Operand::Name(name, None), offset),
                other => (other, 0),
            };
            let offset = inner.wrapping_add(signed_offset(c)?);
            let mut more = Vec::new();
            while c.eat(',') {
                more.push(operand(c)?);
            }
            c.expect(']')?;
            Ok(Operand::Address { base: Box::new(base), offset, more })
        }
        Tok::Punct('-') => {
            c.bump();
            match c.bump() {
                Tok::Int(v) => Ok(Operand::Int(v.wrapping_neg())),
                Tok::F32(v) => Ok(Operand::F32(v ^ 1 << 31)),
                Tok::F64(v) => Ok(Operand::F64(v ^ 1 << 63)),
                _ => c.fail("`-` needs a number after it"),
            }
        }
        Tok::Int(v) => {
            c.bump();
            Ok(Operand::Int(v))
        }
        Tok::F32(v) => {
            c.bump();
            Ok(Operand::F32(v))
        }
        Tok::F64(v) => {
            c.bump();
            Ok(Operand::F64(v))
        }
        Tok::Ident(name) => {
            c.bump();
            if let Tok::Dot(part) = c.peek() {
                c.bump();
                return Ok(Operand::Name(name.to_string(), Some(part.to_string())));
            }
            if c.is('+') || c.is('-') {
                return Ok(Operand::Offset(name.to_string(), signed_offset(c)?));
            }
            Ok(Operand::Name(name.to_string(), None))
        }
        _ => Err(c.unexpected("an operand")),
    }
}
