//! Moving the first instructions of a function.

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionBlock,
};

use crate::entry::{Function, JUMP, Refusal};

/// No trampoline is longer.
pub(crate) const LONGEST: usize = 192;

/// The code of a trampoline that will lie at `at`: the function's first instructions and a jump behind them, and then
/// the gate, a jump to the hook. Returns where the gate starts, too.
pub(crate) fn trampoline(function: Function, at: usize, hook: usize) -> Result<(Vec<u8>, usize), Refusal> {
    // SAFETY: loaded code of the function, as whoever prepares a detour promises; nobody writes it meanwhile.
    let code = unsafe { std::slice::from_raw_parts(function.start as *const u8, function.len) };
    let mut moved = first_instructions(code, function.start as u64)?;
    let covered: usize = moved.iter().map(Instruction::len).sum();
    let behind = function.start + covered;
    if moved.last().is_some_and(|last| !ends(last)) {
        let back = Instruction::with_branch(Code::Jmp_rel32_64, behind as u64);
        moved.push(back.map_err(|_| Refusal::Shape("no way back"))?);
    }
    let block = InstructionBlock::new(&moved, at as u64);
    let encoded = BlockEncoder::encode(64, block, BlockEncoderOptions::NONE)
        .map_err(|_| Refusal::Shape("they refer to something too far away"))?;
    let mut code = encoded.code_buffer;
    let gate = code.len();
    // jmp qword ptr [rip]
    code.extend([0xff, 0x25, 0, 0, 0, 0]);
    code.extend((hook as u64).to_le_bytes());
    Ok((code, gate))
}

/// A jump from `from` to `to`, if it reaches that far.
pub(crate) fn jump(from: usize, to: usize) -> Option<[u8; JUMP]> {
    let distance = i32::try_from(to.wrapping_sub(from + JUMP) as isize).ok()?;
    let [a, b, c, d] = distance.to_le_bytes();
    Some([0xe9, a, b, c, d])
}

/// The instructions that the jump will cover, if the function can do without them where they are.
fn first_instructions(code: &[u8], start: u64) -> Result<Vec<Instruction>, Refusal> {
    let decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let (mut first, mut covered) = (Vec::new(), 0);
    let mut targets = Vec::new();
    for instruction in decoder {
        if instruction.is_invalid() {
            return Err(Refusal::Shape("not all of the function can be read as code"));
        }
        if covered < JUMP {
            match instruction.flow_control() {
                FlowControl::Next | FlowControl::ConditionalBranch => {}
                FlowControl::UnconditionalBranch if covered + instruction.len() >= JUMP => {}
                FlowControl::Call | FlowControl::IndirectCall => {
                    // The callee would return into the trampoline, where no unwinder finds its way.
                    return Err(Refusal::Shape("it begins with a call"));
                }
                _ => return Err(Refusal::Shape("it ends too early")),
            }
            covered += instruction.len();
            first.push(instruction);
        }
        if matches!(
            instruction.flow_control(),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        ) {
            targets.push(instruction.near_branch_target());
        }
    }
    if covered < JUMP {
        return Err(Refusal::Shape("it is too short"));
    }
    let replaced = start + 1..start + covered as u64;
    match targets.iter().any(|target| replaced.contains(target)) {
        true => Err(Refusal::Shape("it jumps back into them")),
        false => Ok(first),
    }
}

fn ends(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::UnconditionalBranch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: &[u8]) -> Option<&'static str> {
        match first_instructions(code, 0x1000) {
            Err(Refusal::Shape(why)) => Some(why),
            Err(_) => Some("something else"),
            Ok(_) => None,
        }
    }

    fn moved(code: &[u8]) -> usize {
        first_instructions(code, 0x1000).unwrap().len()
    }

    #[test]
    fn whole_instructions_are_moved() {
        // push r12; push rbp; push rbx; mov rbx, rdi; ret
        assert_eq!(moved(&[0x41, 0x54, 0x55, 0x53, 0x48, 0x89, 0xfb, 0xc3]), 4);
        // mov eax, 11; syscall; ret
        assert_eq!(moved(&[0xb8, 11, 0, 0, 0, 0x0f, 0x05, 0xc3]), 1);
        // jmp elsewhere
        assert_eq!(moved(&[0xe9, 0, 0x10, 0, 0]), 1);
    }

    #[test]
    fn what_cannot_be_moved_is_refused() {
        assert_eq!(refused(&[0xc3]), Some("it ends too early"));
        assert_eq!(refused(&[0x55, 0x53]), Some("it is too short"));
        assert_eq!(refused(&[0xe8, 0, 0, 0, 0, 0xc3]), Some("it begins with a call"));
        // nop × 5; jmp to the second of them.
        assert_eq!(
            refused(&[0x90, 0x90, 0x90, 0x90, 0x90, 0xeb, 0xfa]),
            Some("it jumps back into them")
        );
        // nop × 5; jmp to the first: a loop around the whole function, which would pass through the hook again.
        assert_eq!(moved(&[0x90, 0x90, 0x90, 0x90, 0x90, 0xeb, 0xf9]), 5);
        assert_eq!(
            refused(&[0x90, 0x90, 0x90, 0x90, 0x90, 0x06]),
            Some("not all of the function can be read as code")
        );
    }

    #[test]
    fn jumps_reach_two_gigabytes_either_way() {
        assert_eq!(jump(0x1000, 0x1005), Some([0xe9, 0, 0, 0, 0]));
        assert_eq!(jump(0x1005, 0x1000), Some([0xe9, 0xf6, 0xff, 0xff, 0xff]));
        assert_eq!(jump(0x1000, 0x1000 + (3 << 30)), None);
    }
}
