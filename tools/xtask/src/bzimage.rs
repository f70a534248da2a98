//! The ELF kernel inside a bzImage (Linux x86 boot protocol 2.08+, Documentation/arch/x86/boot.rst): PVH boot needs the
//! ELF, and distributions ship only the bzImage.

/// Takes the uncompressed kernel out of `image`.
///
/// # Errors
/// Text saying what about the image is not as expected.
pub(crate) fn extract_vmlinux(image: &[u8]) -> Result<Vec<u8>, String> {
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err("not a bzImage".to_owned());
    }
    let setup_sectors = match image.get(0x1f1).copied() {
        Some(0) | None => 4,
        Some(n) => usize::from(n),
    };
    let protected = (setup_sectors + 1) * 512;
    let offset = field(image, 0x248)?;
    let length = field(image, 0x24c)?;
    let begin = protected.checked_add(offset).ok_or("payload offset out of range")?;
    let end = begin.checked_add(length).ok_or("payload length out of range")?;
    let payload = image.get(begin..end).ok_or("payload outside the file")?;
    // The build appends the uncompressed size to the payload.
    let (stream, size) = payload.split_last_chunk::<4>().ok_or("payload too short")?;
    let vmlinux = decompress_lz4_legacy(stream)?;
    if vmlinux.len() != u32::from_le_bytes(*size) as usize {
        return Err(format!("payload is {} bytes long, not {}", vmlinux.len(), u32::from_le_bytes(*size)));
    }
    if !vmlinux.starts_with(b"\x7fELF") {
        return Err("payload is not an ELF file".to_owned());
    }
    Ok(vmlinux)
}

fn field(image: &[u8], at: usize) -> Result<usize, String> {
    let bytes = image.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or("file too short")?;
    Ok(u32::from_le_bytes(*bytes) as usize)
}

/// The frame format that `lz4 -l` writes: a magic number, then blocks of at most 8 MiB each with its size in front.
fn decompress_lz4_legacy(stream: &[u8]) -> Result<Vec<u8>, String> {
    const MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
    const BLOCK: usize = 8 << 20;
    let mut rest = stream.strip_prefix(&MAGIC).ok_or("payload is not compressed with lz4")?;
    let mut out = Vec::new();
    while let Some((size, tail)) = rest.split_first_chunk::<4>() {
        let size = u32::from_le_bytes(*size) as usize;
        let block = tail.get(..size).ok_or("lz4 block outside the payload")?;
        let plain = lz4_flex::block::decompress(block, BLOCK).map_err(|e| format!("lz4: {e}"))?;
        out.extend_from_slice(&plain);
        rest = &tail[size..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(vmlinux: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(vmlinux);
        let mut payload = vec![0x02, 0x21, 0x4c, 0x18];
        payload.extend((block.len() as u32).to_le_bytes());
        payload.extend(&block);
        payload.extend((vmlinux.len() as u32).to_le_bytes());
        let mut image = vec![0; 2 * 512 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend(&payload);
        image
    }

    #[test]
    fn finds_the_kernel() {
        let vmlinux = [b"\x7fELF".as_slice(), &[7; 5000]].concat();
        assert_eq!(extract_vmlinux(&image(&vmlinux)), Ok(vmlinux));
    }

    #[test]
    fn refuses_what_is_no_kernel() {
        assert!(extract_vmlinux(b"").is_err());
        assert!(extract_vmlinux(&image(b"not an ELF file")).is_err());
        let mut cut = image(b"\x7fELF");
        cut.pop();
        assert!(extract_vmlinux(&cut).is_err());
    }
}
