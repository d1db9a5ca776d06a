//! Unwind tables of code that signs its return addresses, as framehop can read them.
//!
//! Such code tells where an address is signed by the instruction `DW_CFA_AARCH64_negate_ra_state` (DWARF for the Arm
//! 64-bit Architecture, 4.3). framehop 0.16 does not tell gimli that these tables are AArch64's, so gimli refuses the
//! instruction, and framehop goes by the frame pointer, which does not tell where the caller's stack pointer was. A
//! caller whose table counts from that is then read at the wrong place. Whether an address is signed need not be known
//! to strip the signature, so the instruction can be left out.

use std::borrow::Cow;

const NEGATE_RETURN_ADDRESS_STATE: u8 = 0x2d;
const NO_OPERATION: u8 = 0;

/// The same `.eh_frame` with "no operation" in place of each instruction that says that the return address is signed
/// from there on, or no more. Both have one byte. Copied only if there is one; what cannot be read is left as it is.
pub(crate) fn without_sign_states(table: &[u8]) -> Cow<'_, [u8]> {
    let mut written = Cow::Borrowed(table);
    let mut rest = Reader { bytes: table, at: 0 };
    while let Some(entry) = rest.entry() {
        if let Some(instructions) = instructions(table, entry) {
            each_sign_state(instructions, |at| written.to_mut()[at] = NO_OPERATION);
        }
    }
    written
}

/// What both kinds of entry begin with: a common one (CIE), and one for a function (FDE).
struct Entry<'a> {
    /// Where the field is that tells them apart; an FDE's CIE is so far before it.
    id_at: usize,
    id: u32,
    /// What follows that field.
    body: Reader<'a>,
}

/// What an FDE's reader must know of its CIE.
struct Common {
    has_augmentation: bool,
    address_len: usize,
}

/// The instructions of an entry, if that can be read (Linux Standard Base, "Exception Frames").
fn instructions<'a>(table: &'a [u8], mut entry: Entry<'a>) -> Option<(Reader<'a>, usize)> {
    if entry.id == 0 {
        let common = entry.body.common()?;
        return Some((entry.body, common.address_len));
    }
    let cie_at = entry.id_at.checked_sub(entry.id as usize)?;
    let mut cie = Reader {
        bytes: table,
        at: cie_at,
    }
    .entry()?;
    let common = (cie.id == 0).then(|| cie.body.common()).flatten()?;
    entry.body.skip(2 * common.address_len)?;
    if common.has_augmentation {
        let len = entry.body.uleb()?;
        entry.body.skip(len)?;
    }
    Some((entry.body, common.address_len))
}

/// Calls `found` with where each such instruction is. Stops at one that is not known (DWARF 5, table 7.29).
fn each_sign_state((mut code, address_len): (Reader<'_>, usize), mut found: impl FnMut(usize)) {
    while code.instruction(address_len, &mut found).is_some() {}
}

/// Reads on from `at`; `None` where that would be outside of the bytes.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next entry; `None` at the one without length that ends a table.
    fn entry(&mut self) -> Option<Entry<'a>> {
        const LENGTH_FOLLOWS: u32 = u32::MAX;
        let len = match self.word()? {
            0 => return None,
            LENGTH_FOLLOWS => usize::try_from(u64::from_le_bytes(self.array()?)).ok()?,
            len => len as usize,
        };
        let id_at = self.at;
        self.skip(len)?;
        let mut body = Reader {
            bytes: &self.bytes[..self.at],
            at: id_at,
        };
        let id = body.word()?;
        Some(Entry { id_at, id, body })
    }

    /// A CIE up to its instructions.
    fn common(&mut self) -> Option<Common> {
        let version = self.byte()?;
        let name_len = self.bytes.get(self.at..)?.iter().position(|byte| *byte == 0)?;
        let augmentation = self.take(name_len)?;
        self.skip(1)?;
        self.uleb()?;
        self.uleb()?;
        // The return address's register.
        if version == 1 {
            self.skip(1)
        } else {
            self.uleb().map(drop)
        }?;
        let mut common = Common {
            has_augmentation: false,
            address_len: size_of::<u64>(),
        };
        if let [b'z', fields @ ..] = augmentation {
            common.has_augmentation = true;
            let len = self.uleb()?;
            let mut data = Reader { ..*self };
            self.skip(len)?;
            for field in fields {
                match field {
                    b'R' => common.address_len = pointer_len(data.byte()?)?,
                    b'L' => data.skip(1)?,
                    b'P' => {
                        let len = pointer_len(data.byte()?)?;
                        data.skip(len)?;
                    }
                    // A signal's frame, and code that signs with key B (`B`) or tags its memory (`G`): no data.
                    b'S' | b'B' | b'G' => {}
                    _ => return None,
                }
            }
        } else if !augmentation.is_empty() {
            return None;
        }
        Some(common)
    }

    /// Passes one instruction.
    fn instruction(&mut self, address_len: usize, found: &mut impl FnMut(usize)) -> Option<()> {
        let at = self.at;
        match self.byte()? {
            // The operand, or the first of two, is in the lower bits.
            0x40..=0x7f | 0xc0..=0xff => Some(()),
            0x80..=0xbf => self.uleb().map(drop),
            NO_OPERATION | 0x0a | 0x0b => Some(()),
            NEGATE_RETURN_ADDRESS_STATE => {
                found(at);
                Some(())
            }
            0x01 => self.skip(address_len),
            0x02 => self.skip(1),
            0x03 => self.skip(2),
            0x04 => self.skip(4),
            // One number, two numbers (a signed one is as long), a block, a number and a block.
            0x06..=0x08 | 0x0d | 0x0e | 0x13 | 0x2e => self.uleb().map(drop),
            0x05 | 0x09 | 0x0c | 0x11 | 0x12 | 0x14 | 0x15 | 0x2f => {
                self.uleb()?;
                self.uleb().map(drop)
            }
            0x0f => self.block(),
            0x10 | 0x16 => {
                self.uleb()?;
                self.block()
            }
            _ => None,
        }
    }

    fn block(&mut self) -> Option<()> {
        let len = self.uleb()?;
        self.skip(len)
    }

    /// A number in base 128, or the low bits of one that is too large for any length.
    fn uleb(&mut self) -> Option<usize> {
        let mut value = 0;
        let mut shift = 0;
        loop {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(value);
            }
            shift += 7;
        }
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn word(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.take(len).map(drop)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }
}

/// How long a pointer of this encoding (`DW_EH_PE_...`) is, for those that have a fixed length.
fn pointer_len(encoding: u8) -> Option<usize> {
    match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => Some(8),
        0x02 | 0x0a => Some(2),
        0x03 | 0x0b => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry with its length, filled up to a multiple of 4 with "no operation".
    fn entry(id: u32, body: &[u8]) -> Vec<u8> {
        let padded = body.len().next_multiple_of(4);
        let mut bytes = (4 + padded as u32).to_le_bytes().to_vec();
        bytes.extend(id.to_le_bytes());
        bytes.extend(body);
        bytes.resize(8 + padded, NO_OPERATION);
        bytes
    }

    /// Version 1, augmentation "zR", factors 4 and -8, register 30, pointers of 4 bytes, and the CFA is the stack pointer.
    const COMMON: &[u8] = &[1, b'z', b'R', 0, 4, 0x78, 30, 1, 0x1b, 0x0c, 31, 0];

    fn table(code: &[u8]) -> Vec<u8> {
        let mut table = entry(0, COMMON);
        let back = table.len() as u32 + 4;
        table.extend(entry(
            back,
            &[&[0x2d, 0x2d, 0x2d, 0x2d, 0x2d, 0, 0, 0, 1, 0x2d], code].concat(),
        ));
        table.extend([0; 4]);
        // Behind the end.
        table.extend([0x2d; 8]);
        table
    }

    #[test]
    fn only_the_instruction_is_left_out() {
        // As gcc writes a function that begins with `paciasp`, and `stp x29, x30, [sp, -32]!`, and ends with `autiasp`.
        let signed = [
            0x41, 0x2d, 0x41, 0x0e, 0x20, 0x9d, 4, 0x9e, 3, 0x45, 0xde, 0xdd, 0x0e, 0, 0x41, 0x2d,
        ];
        let plain = [
            0x41, 0x00, 0x41, 0x0e, 0x20, 0x9d, 4, 0x9e, 3, 0x45, 0xde, 0xdd, 0x0e, 0, 0x41, 0x00,
        ];
        assert_eq!(without_sign_states(&table(&signed)), table(&plain));
        // The same byte as an operand of each kind.
        let operands = [
            &[0x02, 0x2d][..],
            &[0x03, 0x2d, 0x2d],
            &[0x04, 0x2d, 0x2d, 0x2d, 0x2d],
            &[0x01, 0x2d, 0x2d, 0x2d, 0x2d],
            &[0x0e, 0x2d, 0x0e, 0xad, 0x2d, 0x9d, 0x2d],
            &[0x0c, 0x2d, 0x2d, 0x11, 0x2d, 0x2d, 0x2f, 0x2d, 0x2d],
            &[0x0f, 2, 0x2d, 0x2d, 0x10, 0x2d, 1, 0x2d, 0x16, 0x2d, 1, 0x2d],
        ]
        .concat();
        let with = |last: u8| table(&[&operands[..], &[last]].concat());
        assert!(matches!(without_sign_states(&with(0)), Cow::Borrowed(_)));
        assert_eq!(without_sign_states(&with(0x2d)), with(0));
        // What comes after an unknown instruction cannot be told.
        assert_eq!(
            without_sign_states(&table(&[0x2d, 0x3f, 0x2d])),
            table(&[0, 0x3f, 0x2d])
        );
    }

    proptest::proptest! {
        #[test]
        fn any_table_is_read(code: Vec<u8>, bytes: Vec<u8>) {
            for before in [table(&code), bytes] {
                let after = without_sign_states(&before);
                for (before, after) in before.iter().zip(&*after) {
                    proptest::prop_assert!(before == after || (*before, *after) == (0x2d, 0));
                }
            }
        }
    }
}
