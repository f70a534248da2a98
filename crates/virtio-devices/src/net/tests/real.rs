//! The whole card over a real tap, in a network of the test's own.

use std::net::UdpSocket;

use super::*;

fn connected(plan: &plan::Net) -> Result<Net, Error> {
    let events = device::Events::new(Arc::new(device::NoSink)).unwrap();
    let ram = &test_ram(&[(0, 0x1000)]).dma();
    connect(
        plan,
        &BuildContext {
            id: "_net0",
            ram,
            events: &events,
            descriptors: &[],
            stream: None,
            boot_bar: BarKind::Memory32,
        },
    )
}

fn started(net: &mut Net, ram: &GuestRam, features: u64, queues: &[&FakeQueue]) -> Arc<FakeInterrupt> {
    let (activation, interrupt) = fake::activation(ram, features, queues);
    net.start(activation);
    interrupt
}

#[test]
fn the_host_and_the_guest_exchange_frames() {
    if !::net::netns::enter() {
        return;
    }
    let ip = ["10.9.8.1", "255.255.255.0"].map(|s| s.parse().unwrap());
    let mut net = connected(&plan::Net { ip: Some(ip.into()), mtu: Some(1400), ..config(2) }).unwrap();
    assert_eq!(net.tap_name(), "vmtap0");
    let mut mtu = [0; 2];
    net.read_config(10, &mut mtu);
    assert_eq!(mtu, 1400u16.to_le_bytes());

    let ram = test_ram(&[(0, RAM_LEN)]);
    let mut queues: Vec<_> = (0..5).map(|i| FakeQueue::new(&ram, i * 0x4000, 64)).collect();
    for buffer in 0..32 {
        queues[0].add(&[(BUFFERS + buffer * 0x1000, 0x1000, WRITE)]);
    }
    let features = net.info().features & !feature::EVENT_IDX;
    started(&mut net, &ram, features, &queues.iter().collect::<Vec<_>>());
    // An announcement of the guest's address, as good as an answer: the host need not ask.
    let arp: [&[u8]; 9] = [
        &[0; HEADER_LEN],
        &[0xff; 6],
        &MAC,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &MAC,
        &[10, 9, 8, 2],
        &[0; 6],
        &[10, 9, 8, 1],
        &[0; 18],
    ];
    let arp = arp.concat();
    ram.map().write_slice(&arp, GuestAddress(BUFFERS + 0x8_0000)).unwrap();
    queues[1].add(&[(BUFFERS + 0x8_0000, u32::try_from(arp.len()).unwrap(), 0)]);
    queues[1].ring();
    queues[1].wait_used();

    let socket = UdpSocket::bind("10.9.8.1:0").unwrap();
    socket.send_to(b"hello guest", "10.9.8.2:7").unwrap();
    let mut arrived = false;
    while !arrived {
        let (head, len) = queues[0].wait_used();
        let mut frame = vec![0; usize::try_from(len).unwrap()];
        ram.map().read_slice(&mut frame, GuestAddress(BUFFERS + u64::from(head) * 0x1000)).unwrap();
        assert_eq!(frame[10..12], [1, 0], "num_buffers");
        arrived = frame.ends_with(b"hello guest") && frame[12..18] == MAC;
    }
    net.stop();
    assert_eq!(net.stopped(soon()).unwrap().len(), 5);
    let counters = net.counters().unwrap().read();
    assert_eq!(counters[2..], [("tx_bytes", 60), ("tx_frames", 1)]);
    assert!(counters[1].1 >= 1);
}

#[test]
fn a_tap_in_use_is_an_error_that_names_device_and_interface() {
    if !::net::netns::enter() {
        return;
    }
    let config = plan::Net { tap: Some("shared".into()), ..config(1) };
    let _first = connected(&config).unwrap();
    let Err(error) = connected(&config) else { panic!("two cards share a tap") };
    assert!(error.to_string().contains("'_net0'"));
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("'shared'"), "{source}");
}
