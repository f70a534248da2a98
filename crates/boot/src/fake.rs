//! A kernel for the tests of those above.

/// The bytes of an ELF file with a PVH entry at 1 MiB and nothing else.
pub fn kernel() -> Vec<u8> {
    const NOTE_AT: u64 = 64 + 2 * 56;
    const NOTE: [u8; 20] = [4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0, 0, 0x10, 0];
    let header = |kind: u32, at: u64, address: u64, len: u64| -> Vec<u8> {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend(5u32.to_le_bytes());
        [at, address, address, len, len, 4].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
        bytes
    };
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0];
    [0x10_0000u64, 64, 0].iter().for_each(|field| elf.extend(field.to_le_bytes()));
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    elf.extend(header(1, 0, 0x10_0000, NOTE_AT + NOTE.len() as u64));
    elf.extend(header(4, NOTE_AT, 0, NOTE.len() as u64));
    elf.extend(NOTE);
    elf
}
