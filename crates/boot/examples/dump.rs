#![allow(missing_docs)]
use memory::*;
use std::fs;
fn main() {
    let ram = test_ram(&[(0, 256 << 20)]);
    let n: u8 = 2;
    boot::acpi::write(
        &ram,
        &boot::acpi::Tables {
            cpus: (0..4).map(|n| boot::acpi::Cpu { apic_id: n, enabled: n < 2 }).collect(),
            segments: (0..n)
                .map(|number| boot::acpi::PciSegment {
                    number,
                    window32: 0xc000_0000..=0xe7ff_ffff,
                    window64: 0x2_0000_0000..=0x3fff_ffed_ffff,
                })
                .collect(),
            serial: true,
            ged: 0x3fff_fffe_f000,
        },
    )
    .unwrap();
    let rd = |a, l: usize| {
        let mut b = vec![0u8; l];
        ram.map().read_slice(&mut b, GuestAddress(a)).unwrap();
        b
    };
    let mut at = 0xa0024u64;
    loop {
        let h = rd(at, 8);
        if h[0] == 0 {
            break;
        }
        let l = u32::from_le_bytes(h[4..8].try_into().unwrap());
        fs::write(
            format!("/tmp/boot-k/{}.dat", String::from_utf8_lossy(&h[..4]).to_lowercase()),
            rd(at, l as usize),
        )
        .unwrap();
        at += l as u64;
    }
    fs::write("/tmp/boot-k/f.bin", rd(0xf0000, 0x10000)).unwrap();
    for k in std::env::args().skip(1) {
        let ram = test_ram(&[(0, 1 << 30)]);
        let t = std::time::Instant::now();
        let r = boot::load(
            &ram,
            &boot::Payload { kernel: k.as_ref(), cmdline: "console=ttyS0", initramfs: None },
        );
        println!("{k}: {r:x?} in {:?}", t.elapsed());
    }
}
