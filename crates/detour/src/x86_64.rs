//! Moving the first instructions of a function.

use yaxpeax_arch::LengthedInstruction;
use yaxpeax_x86::long_mode::{InstDecoder, Instruction, Opcode, Operand, RegSpec};

use crate::entry::{Function, JUMP, Refusal};

/// No trampoline is longer.
pub(crate) const LONGEST: usize = 192;

/// The code of a trampoline that will lie at `at`: the function's first instructions and a jump behind them, and then
/// the gate, a jump to the hook. Returns where the gate starts, too.
pub(crate) fn trampoline(function: Function, at: usize, hook: usize) -> Result<(Vec<u8>, usize), Refusal> {
    // SAFETY: loaded code of the function, as whoever prepares a detour promises; nobody writes it meanwhile.
    let code = unsafe { std::slice::from_raw_parts(function.start as *const u8, function.len) };
    let first = first_instructions(code, function.start)?;
    let mut moved = Vec::with_capacity(LONGEST);
    for step in &first {
        step.put(at + moved.len(), &mut moved)?;
    }
    if let Some(last) = first.last()
        && !matches!(last.way, Way::Jump(_))
    {
        put_jump(last.at + last.code.len(), at + moved.len(), &mut moved)?;
    }
    let gate = moved.len();
    // jmp qword ptr [rip]
    moved.extend([0xff, 0x25, 0, 0, 0, 0]);
    moved.extend((hook as u64).to_le_bytes());
    Ok((moved, gate))
}

/// A jump from `from` to `to`, if it reaches that far.
pub(crate) fn jump(from: usize, to: usize) -> Option<[u8; JUMP]> {
    let distance = i32::try_from(to.wrapping_sub(from + JUMP) as isize).ok()?;
    let [a, b, c, d] = distance.to_le_bytes();
    Some([0xe9, a, b, c, d])
}

/// One instruction where it is now.
struct Step<'a> {
    at: usize,
    code: &'a [u8],
    decoded: Instruction,
    way: Way,
}

/// Where an instruction leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the next one.
    On,
    /// There.
    Jump(usize),
    /// There or to the next one: a branch with this condition, as it is encoded.
    Branch(u8, usize),
    /// There or to the next one, with a counter that has no long form.
    Loop(usize),
    Call,
    /// Away: a return, a jump to an address in a register or in memory, an interrupt.
    Away,
}

const TOO_FAR: Refusal = Refusal::Shape("they refer to something too far away");

impl Step<'_> {
    fn end(&self) -> usize {
        self.at + self.code.len()
    }

    /// Puts the instruction behind `moved`, where it will lie at `to` and do what it does now.
    fn put(&self, to: usize, moved: &mut Vec<u8>) -> Result<(), Refusal> {
        match self.way {
            Way::Jump(target) => put_jump(target, to, moved),
            Way::Branch(condition, target) => {
                moved.extend([0x0f, 0x80 | condition]);
                put_distance(target, to + 6, moved)
            }
            _ => {
                let from = moved.len();
                moved.extend(self.code);
                match operands(&self.decoded).find_map(|operand| from_here(&operand)) {
                    Some(distance) => self.aim(distance, to, &mut moved[from..]),
                    None => Ok(()),
                }
            }
        }
    }

    /// Lets the `copy`, which will lie at `to`, name the memory that the instruction names.
    fn aim(&self, distance: i32, to: usize, copy: &mut [u8]) -> Result<(), Refusal> {
        let target = self.end().wrapping_add_signed(distance as isize);
        let new = distance_to(target, to + copy.len())?;
        // The four bytes lie behind a ModRM byte that says so, and operands of their own may follow. Where else there
        // are the same bytes, another instruction comes out.
        for at in 1..=copy.len().saturating_sub(4) {
            if copy[at - 1] & 0xc7 != 0x05 || copy[at..at + 4] != distance.to_le_bytes() {
                continue;
            }
            copy[at..at + 4].copy_from_slice(&new.to_le_bytes());
            if decode(copy).is_some_and(|found| self.differs_in_distance(&found, new)) {
                return Ok(());
            }
            copy[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        }
        Err(Refusal::Shape("they refer to memory in an unknown way"))
    }

    /// Whether `other` is this instruction, but for the distance to what it names, which is `distance`.
    fn differs_in_distance(&self, other: &Instruction, distance: i32) -> bool {
        let own = operands(&self.decoded).map(|operand| from_here(&operand).map(|_| distance).ok_or(operand));
        let others = operands(other).map(|operand| from_here(&operand).ok_or(operand));
        self.decoded.opcode() == other.opcode() && len(&self.decoded) == len(other) && own.eq(others)
    }
}

fn operands(instruction: &Instruction) -> impl Iterator<Item = Operand> + '_ {
    (0..instruction.operand_count()).map(|at| instruction.operand(at))
}

/// The distance from the end of the instruction to the memory that the operand names, if it does so.
fn from_here(operand: &Operand) -> Option<i32> {
    let (base, distance) = match operand {
        Operand::Disp { base, disp } | Operand::DispMasked { base, disp, .. } => (base, *disp),
        Operand::MemDeref { base } | Operand::MemDerefMasked { base, .. } => (base, 0),
        _ => return None,
    };
    (*base == RegSpec::rip()).then_some(distance)
}

fn put_jump(target: usize, at: usize, moved: &mut Vec<u8>) -> Result<(), Refusal> {
    moved.extend(jump(at, target).ok_or(TOO_FAR)?);
    Ok(())
}

fn put_distance(target: usize, from: usize, moved: &mut Vec<u8>) -> Result<(), Refusal> {
    moved.extend(distance_to(target, from)?.to_le_bytes());
    Ok(())
}

fn distance_to(target: usize, from: usize) -> Result<i32, Refusal> {
    i32::try_from(target.wrapping_sub(from) as isize).map_err(|_| TOO_FAR)
}

fn decode(code: &[u8]) -> Option<Instruction> {
    InstDecoder::default().decode_slice(code).ok()
}

fn len(instruction: &Instruction) -> usize {
    instruction.len().to_const() as usize
}

/// The instructions from here to the end of the function; `None` for bytes that are none.
fn steps(code: &[u8], start: usize) -> impl Iterator<Item = Option<Step<'_>>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = code.get(at..).filter(|rest| !rest.is_empty())?;
        let Some(decoded) = decode(rest) else {
            at = code.len();
            return Some(None);
        };
        let (here, code) = (start + at, &rest[..len(&decoded)]);
        at += code.len();
        let way = way(&decoded, code, start + at);
        Some(Some(Step {
            at: here,
            code,
            decoded,
            way,
        }))
    })
}

/// Where an instruction leads that ends at `end`.
fn way(instruction: &Instruction, code: &[u8], end: usize) -> Way {
    let (target, long) = match instruction.operand(0) {
        Operand::ImmediateI8 { imm } => (end.wrapping_add_signed(imm.into()), false),
        Operand::ImmediateI32 { imm } => (end.wrapping_add_signed(imm as isize), true),
        _ => (0, false),
    };
    match instruction.opcode() {
        Opcode::JMP if target != 0 => Way::Jump(target),
        Opcode::JO
        | Opcode::JNO
        | Opcode::JB
        | Opcode::JNB
        | Opcode::JZ
        | Opcode::JNZ
        | Opcode::JA
        | Opcode::JNA
        | Opcode::JS
        | Opcode::JNS
        | Opcode::JP
        | Opcode::JNP
        | Opcode::JL
        | Opcode::JGE
        | Opcode::JLE
        | Opcode::JG => {
            // The opcode comes right before the distance.
            let opcode = code[code.len() - if long { 5 } else { 2 }];
            Way::Branch(opcode & 0xf, target)
        }
        Opcode::LOOP | Opcode::LOOPZ | Opcode::LOOPNZ | Opcode::JRCXZ | Opcode::JECXZ => Way::Loop(target),
        Opcode::CALL | Opcode::CALLF | Opcode::SYSCALL | Opcode::SYSENTER => Way::Call,
        Opcode::JMP
        | Opcode::JMPF
        | Opcode::JMPE
        | Opcode::RETURN
        | Opcode::RETF
        | Opcode::IRET
        | Opcode::IRETD
        | Opcode::IRETQ
        | Opcode::INT
        | Opcode::INTO
        | Opcode::HLT
        | Opcode::UD0
        | Opcode::UD1
        | Opcode::UD2
        | Opcode::SYSRET
        | Opcode::SYSEXIT
        | Opcode::XBEGIN
        | Opcode::XABORT => Way::Away,
        _ => Way::On,
    }
}

/// The instructions that the jump will cover, if the function can do without them where they are.
fn first_instructions(code: &[u8], start: usize) -> Result<Vec<Step<'_>>, Refusal> {
    let (mut first, mut covered) = (Vec::new(), 0);
    let mut targets = Vec::new();
    for step in steps(code, start) {
        let step = step.ok_or(Refusal::Shape("not all of the function can be read as code"))?;
        if let Way::Jump(target) | Way::Branch(_, target) | Way::Loop(target) = step.way {
            targets.push(target);
        }
        if covered < JUMP {
            covered += step.code.len();
            match step.way {
                Way::On | Way::Branch(..) => {}
                Way::Jump(_) if covered >= JUMP => {}
                // The callee would return into the trampoline, where no unwinder finds its way.
                Way::Call => return Err(Refusal::Shape("it begins with a call")),
                Way::Loop(_) => return Err(Refusal::Shape("it begins with a loop")),
                Way::Jump(_) | Way::Away => return Err(Refusal::Shape("it ends too early")),
            }
            first.push(step);
        }
    }
    if covered < JUMP {
        return Err(Refusal::Shape("it is too short"));
    }
    let replaced = start + 1..start + covered;
    match targets.iter().any(|target| replaced.contains(target)) {
        true => Err(Refusal::Shape("it jumps back into them")),
        false => Ok(first),
    }
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

    /// What these first instructions are at 0x2000, without the way back.
    fn at_2000(code: &[u8]) -> Vec<u8> {
        let mut moved = Vec::new();
        for step in first_instructions(code, 0x1000).unwrap() {
            step.put(0x2000 + moved.len(), &mut moved).unwrap();
        }
        moved
    }

    #[test]
    fn whole_instructions_are_moved() {
        // push r12; push rbp; push rbx; mov rbx, rdi; ret
        assert_eq!(moved(&[0x41, 0x54, 0x55, 0x53, 0x48, 0x89, 0xfb, 0xc3]), 4);
        // mov eax, 11; syscall; ret
        assert_eq!(moved(&[0xb8, 11, 0, 0, 0, 0x0f, 0x05, 0xc3]), 1);
        // jmp elsewhere
        assert_eq!(moved(&[0xe9, 0, 0x10, 0, 0]), 1);
        // endbr64; push rbp; ret
        assert_eq!(moved(&[0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0xc3]), 2);
        // cmp byte ptr fs:[0x18], 0; jne +5; ret
        assert_eq!(moved(&[0x64, 0x80, 0x3c, 0x25, 0x18, 0, 0, 0, 0, 0x75, 5, 0xc3]), 1);
        // andn eax, eax, edi; vmovdqu ymm0, [rsi]; ret
        assert_eq!(moved(&[0xc4, 0xe2, 0x78, 0xf2, 0xc7, 0xc5, 0xfe, 0x6f, 0x06, 0xc3]), 1);
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

    #[test]
    fn memory_is_named_from_the_new_place() {
        // mov rax, [rip + 0x100]
        assert_eq!(
            at_2000(&[0x48, 0x8b, 0x05, 0, 1, 0, 0]),
            [0x48, 0x8b, 0x05, 0, 0xf1, 0xff, 0xff]
        );
        // cmp dword ptr [rip + 5], 5: the operand is left as it is.
        assert_eq!(
            at_2000(&[0x83, 0x3d, 5, 0, 0, 0, 5]),
            [0x83, 0x3d, 0x05, 0xf0, 0xff, 0xff, 5]
        );
        // mov dword ptr [rip + 0x05050505], 0x05050505
        assert_eq!(
            at_2000(&[0xc7, 0x05, 5, 5, 5, 5, 5, 5, 5, 5]),
            [0xc7, 0x05, 0x05, 0xf5, 0x04, 0x05, 5, 5, 5, 5]
        );
        // lea rax, [rip]; vmovdqu32 zmm0, [rip + 0x100]
        assert_eq!(
            at_2000(&[0x48, 0x8d, 0x05, 0, 0, 0, 0]),
            [0x48, 0x8d, 0x05, 0, 0xf0, 0xff, 0xff]
        );
        assert_eq!(
            at_2000(&[0x62, 0xf1, 0x7e, 0x48, 0x6f, 0x05, 0, 1, 0, 0]),
            [0x62, 0xf1, 0x7e, 0x48, 0x6f, 0x05, 0, 0xf1, 0xff, 0xff]
        );
        let far = first_instructions(&[0x48, 0x8b, 0x05, 0, 1, 0, 0], 0x1000).unwrap();
        assert!(far[0].put(0x1000 + (3 << 30), &mut Vec::new()).is_err());
    }

    #[test]
    fn branches_lead_where_they_led() {
        // test rdi, rdi; je +0x10; nop
        assert_eq!(
            at_2000(&[0x48, 0x85, 0xff, 0x74, 0x10, 0x90]),
            [0x48, 0x85, 0xff, 0x0f, 0x84, 0x0c, 0xf0, 0xff, 0xff]
        );
        // js +0x10, in its long form
        assert_eq!(
            at_2000(&[0x0f, 0x88, 0x10, 0, 0, 0]),
            [0x0f, 0x88, 0x10, 0xf0, 0xff, 0xff]
        );
        // push rbp; push rbx; nop; jmp -0x10
        assert_eq!(
            at_2000(&[0x55, 0x53, 0x90, 0xeb, 0xf0]),
            [0x55, 0x53, 0x90, 0xe9, 0xed, 0xef, 0xff, 0xff]
        );
        // nop; jrcxz +1
        assert_eq!(refused(&[0x90, 0xe3, 1, 0x90, 0x90]), Some("it begins with a loop"));
    }
}
