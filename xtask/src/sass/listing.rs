//! Machine code as `nvdisasm -c` lists it: instructions, and where they branch to.

use std::collections::HashMap;

/// One machine instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// With its modifiers: `LDSM.16.M88.4`.
    pub name: String,
    operands: String,
    guarded: bool,
}

impl Instruction {
    fn parse(line: &str) -> Option<Self> {
        let (address, text) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let text = text.trim().trim_end_matches(';').trim_end();
        let guard = text.starts_with('@');
        let text = if guard { text.split_once(' ')?.1.trim_start() } else { text };
        let (name, operands) = text.split_once(' ').unwrap_or((text, ""));
        (!name.is_empty()).then(|| Instruction {
            name: name.to_owned(),
            operands: operands.trim().to_owned(),
            guarded: guard,
        })
    }

    /// The name without modifiers.
    pub fn base(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// Whether a modifier is this.
    pub fn has(&self, modifier: &str) -> bool {
        self.name.split('.').skip(1).any(|m| m == modifier)
    }

    /// What labels it branches to, for an instruction that branches.
    fn targets(&self) -> Vec<&str> {
        match self.base() {
            "BRA" | "BRX" | "BRXU" | "JMP" | "JMX" => labels(&self.operands).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether what follows it may run next.
    fn falls_through(&self) -> bool {
        match self.base() {
            // A condition is a guard, or an operand before the label.
            "BRA" | "JMP" => self.guarded || !self.operands.starts_with("`("),
            "BRX" | "BRXU" | "JMX" | "EXIT" | "RET" | "KILL" => self.guarded,
            _ => true,
        }
    }
}

/// The labels in a text.
fn labels(text: &str) -> impl Iterator<Item = &str> {
    let is_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '$');
    text.split(move |c| !is_label(c)).filter(|word| word.starts_with(".L_"))
}

/// Instructions that run one after the other, and the blocks that may run next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub instructions: Vec<Instruction>,
    pub next: Vec<usize>,
}

/// The blocks of a kernel, in the order of their addresses; the first is where it begins. None if
/// the listing does not have it.
pub fn blocks(listing: &str, kernel: &str) -> Option<Vec<Block>> {
    let start = format!(".text.{kernel}:");
    let lines = listing.lines().skip_while(|line| line.trim() != start).skip(1);
    let lines = lines.take_while(|line| !line.trim_start().starts_with(".section"));

    let mut instructions = Vec::new();
    let mut positions: HashMap<&str, usize> = HashMap::new();
    for line in lines {
        if let Some(label) = line.trim().strip_suffix(':') {
            positions.insert(label, instructions.len());
        } else {
            instructions.extend(Instruction::parse(line));
        }
    }
    if instructions.is_empty() {
        return None;
    }

    let targets: Vec<Vec<usize>> = instructions
        .iter()
        .map(|i| i.targets().iter().filter_map(|label| positions.get(label).copied()).collect())
        .collect();
    let mut begins = vec![false; instructions.len() + 1];
    begins[0] = true;
    for (at, instruction) in instructions.iter().enumerate() {
        targets[at].iter().for_each(|&target| begins[target] = true);
        begins[at + 1] |= !targets[at].is_empty() || !instruction.falls_through();
    }

    // The block of each instruction.
    let mut block_of = Vec::with_capacity(instructions.len());
    let mut count = 0;
    for &begin in &begins[..instructions.len()] {
        count += usize::from(begin);
        block_of.push(count - 1);
    }
    let mut blocks = vec![Block::default(); count];
    for (at, instruction) in instructions.into_iter().enumerate() {
        let block = &mut blocks[block_of[at]];
        let last = at + 1 == block_of.len() || begins[at + 1];
        if last {
            let following = block_of.get(at + 1).filter(|_| instruction.falls_through());
            let jumps = targets[at].iter().filter_map(|&target| block_of.get(target));
            block.next = following.into_iter().chain(jumps).copied().collect();
        }
        block.instructions.push(instruction);
    }
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_told_from_guards_and_operands() {
        let parse = |line| Instruction::parse(line).unwrap();
        let load = parse("        /*125e0*/                   LDSM.16.M88.4 R92, [R68+0x1000] ;");
        assert_eq!((load.name.as_str(), load.base()), ("LDSM.16.M88.4", "LDSM"));
        assert!(load.has("4") && !load.has("LDSM") && load.falls_through());
        let branch = parse("        /*12fe0*/               @P0 BRA `(.L_x_189) ;");
        assert_eq!(branch.targets(), [".L_x_189"]);
        assert!(branch.falls_through());
        assert!(!parse("  /*0*/  BRA `(.L_x_1) ;").falls_through());
        assert!(parse("  /*0*/  BRA.U !UP0, `(.L_x_1) ;").falls_through());
        let table = "/*0*/ BRXU UR10 -0x15100 (*\"BRANCH_TARGETS .L_x_260,.L_x_261\"*);";
        assert_eq!(parse(table).targets(), [".L_x_260", ".L_x_261"]);
        assert_eq!(Instruction::parse(".L_x_110:"), None);
        assert_eq!(Instruction::parse("/* a comment */"), None);
    }

    #[test]
    fn blocks_end_at_branches_and_begin_at_labels() {
        let listing = "
\t.section\t.text.other,\"ax\"
.text.other:
        /*0000*/                   EXIT ;
\t.section\t.text.k,\"ax\"
k:
.text.k:
        /*0000*/                   MOV R1, R2 ;
.L_x_0:
        /*0010*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
        /*0030*/                   EXIT ;
.L_x_1:
        /*0040*/                   BRA `(.L_x_1);
.L_x_2:
";
        let blocks = blocks(listing, "k").unwrap();
        let next: Vec<_> = blocks.iter().map(|block| block.next.as_slice()).collect();
        assert_eq!(next, [&[1][..], &[2, 1], &[], &[3]]);
        assert_eq!(blocks[1].instructions.len(), 2);
        assert_eq!(super::blocks(listing, "absent"), None);
    }
}
