//! Where everything lies in the file, and its headers (System V ABI, chapters 4 and 5).

use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, ELFOSABI_NONE, EM_X86_64, ET_CORE, EV_CURRENT, FileFlags, FileHeader64,
    Ident, PF_R, PF_W, PF_X, PN_XNUM, PT_LOAD, PT_NOTE, ProgramFlags, ProgramHeader64, ProgramType,
    SHN_UNDEF,
};
use object::pod::bytes_of;
use object::{LittleEndian as LE, U16, U32, U64};

use crate::{CHUNK, Error, PAGE};

pub(crate) const FILE_HEADER_LEN: u64 = size_of::<FileHeader64<LE>>() as u64;
const PROGRAM_HEADER_LEN: u64 = size_of::<ProgramHeader64<LE>>() as u64;

/// One range of RAM in the file.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Guest-physical.
    pub(crate) base: u64,
    pub(crate) len: u64,
    pub(crate) offset: u64,
}

/// A part of a segment that is read at once.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) base: u64,
    /// At most [`CHUNK`].
    pub(crate) len: u64,
}

impl Segment {
    /// What of it lies in `occupied`, in whole pages.
    pub(crate) fn pieces(&self, occupied: &[(u64, u64)]) -> impl Iterator<Item = Piece> {
        let (first, end) = (self.base, self.base + self.len);
        let inside = occupied.iter().map(move |(base, len)| {
            let stop = base.saturating_add(*len).min(end).next_multiple_of(PAGE);
            (base - base % PAGE).max(first)..stop
        });
        inside.flat_map(|part| {
            let starts = (part.start..part.end).step_by(CHUNK as usize);
            starts.map(move |base| Piece { base, len: CHUNK.min(part.end - base) })
        })
    }
}

/// The file's layout.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) segments: Vec<Segment>,
    pub(crate) notes_offset: u64,
    notes_len: u64,
    pub(crate) file_len: u64,
}

impl Layout {
    /// Of a file with `notes_len` bytes of notes and these ranges of RAM.
    pub(crate) fn new(ranges: &[(u64, u64)], notes_len: u64) -> Result<Self, Error> {
        let notes_offset = FILE_HEADER_LEN + PROGRAM_HEADER_LEN * (ranges.len() as u64 + 1);
        let mut offset = (notes_offset + notes_len).next_multiple_of(PAGE);
        let mut free = 0;
        let mut segments = Vec::new();
        for (base, len) in ranges.iter().copied() {
            let refused = || Error::Range { base, len };
            let is_whole = len != 0 && base % PAGE == 0 && len % PAGE == 0;
            // One header is that of the notes.
            let has_room = segments.len() + 1 < usize::from(PN_XNUM) - 1;
            if !is_whole || base < free || !has_room {
                return Err(refused());
            }
            segments.push(Segment { base, len, offset });
            free = base.checked_add(len).ok_or_else(refused)?;
            offset = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(refused)?;
        }
        Ok(Self { segments, notes_offset, notes_len, file_len: offset })
    }

    pub(crate) fn file_header(&self) -> Vec<u8> {
        let header = FileHeader64 {
            e_ident: Ident {
                magic: ELFMAG,
                class: ELFCLASS64,
                data: ELFDATA2LSB,
                version: EV_CURRENT,
                os_abi: ELFOSABI_NONE,
                abi_version: 0,
                padding: [0; 7],
            },
            e_type: U16::new(LE, ET_CORE),
            e_machine: U16::new(LE, EM_X86_64),
            e_version: U32::new(LE, u32::from(EV_CURRENT.0)),
            e_entry: U64::new(LE, 0),
            e_phoff: U64::new(LE, FILE_HEADER_LEN),
            e_shoff: U64::new(LE, 0),
            e_flags: U32::new(LE, FileFlags(0)),
            e_ehsize: U16::new(LE, FILE_HEADER_LEN as u16),
            e_phentsize: U16::new(LE, PROGRAM_HEADER_LEN as u16),
            e_phnum: U16::new(LE, self.segments.len() as u16 + 1),
            e_shentsize: U16::new(LE, 0),
            e_shnum: U16::new(LE, 0),
            e_shstrndx: U16::new(LE, SHN_UNDEF),
        };
        bytes_of(&header).to_vec()
    }

    pub(crate) fn program_headers(&self) -> Vec<u8> {
        let notes = Segment { base: 0, len: self.notes_len, offset: self.notes_offset };
        let mut bytes = program_header(PT_NOTE, ProgramFlags(0), &notes, 4);
        for segment in &self.segments {
            bytes.extend(program_header(PT_LOAD, PF_R | PF_W | PF_X, segment, PAGE));
        }
        bytes
    }
}

fn program_header(kind: ProgramType, flags: ProgramFlags, segment: &Segment, align: u64) -> Vec<u8> {
    let header = ProgramHeader64 {
        p_type: U32::new(LE, kind),
        p_flags: U32::new(LE, flags),
        p_offset: U64::new(LE, segment.offset),
        p_vaddr: U64::new(LE, segment.base),
        p_paddr: U64::new(LE, segment.base),
        p_filesz: U64::new(LE, segment.len),
        p_memsz: U64::new(LE, segment.len),
        p_align: U64::new(LE, align),
    };
    bytes_of(&header).to_vec()
}
