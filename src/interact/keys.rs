//! The keys by which a person leaves a terminal and lets the program go on: Ctrl-P Ctrl-Q,
//! as with docker and podman. Pure.

const CTRL_P: u8 = 16;
const CTRL_Q: u8 = 17;

/// Looks for them in what is typed.
#[derive(Debug, Default)]
pub struct DetachKeys {
    /// A Ctrl-P that may be the first of the two.
    held: bool,
}

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// For the program; may be nothing yet.
    Bytes(Vec<u8>),
    /// For the program, and then the person left.
    Left(Vec<u8>),
}

impl DetachKeys {
    /// Takes the next bytes. A Ctrl-P waits for the byte after it.
    pub fn take(&mut self, typed: &[u8]) -> Typed {
        let mut bytes = Vec::with_capacity(typed.len() + 1);
        for &byte in typed {
            match (std::mem::take(&mut self.held), byte) {
                (true, CTRL_Q) => return Typed::Left(bytes),
                (held, CTRL_P) => {
                    bytes.extend(held.then_some(CTRL_P));
                    self.held = true;
                }
                (held, byte) => {
                    bytes.extend(held.then_some(CTRL_P));
                    bytes.push(byte);
                }
            }
        }
        Typed::Bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_two_keys_leave_also_in_two_pieces() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.take(b"ab\x10"), Typed::Bytes(b"ab".to_vec()));
        assert_eq!(keys.take(b"\x11rest"), Typed::Left(Vec::new()));
        assert_eq!(DetachKeys::default().take(b"x\x10\x10\x11"), Typed::Left(b"x\x10".to_vec()));
    }

    #[test]
    fn a_lone_ctrl_p_comes_with_the_next_key() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.take(b"\x10"), Typed::Bytes(Vec::new()));
        assert_eq!(keys.take(b"a\x11"), Typed::Bytes(b"\x10a\x11".to_vec()));
    }

    proptest! {
        #[test]
        fn nothing_typed_is_lost_or_changed(pieces: Vec<Vec<u8>>) {
            let (mut keys, mut through, all) = (DetachKeys::default(), Vec::new(), pieces.concat());
            for piece in &pieces {
                match keys.take(piece) {
                    Typed::Bytes(bytes) => through.extend(bytes),
                    Typed::Left(_) => return Ok(()),
                }
            }
            through.extend(keys.held.then_some(CTRL_P));
            prop_assert_eq!(through, all);
        }
    }
}
