use super::*;

fn unmask(msix: &mut Msix, index: u64, data: u32) {
    msix.write_table(index * 16, &0xfee0_0000u64.to_le_bytes());
    msix.write_table(index * 16 + 8, &data.to_le_bytes());
    msix.write_table(index * 16 + 12, &0u32.to_le_bytes());
}

#[test]
fn masked_vectors_stay_pending_and_fire_once_when_unmasked() {
    let source = fake::FakeSource::default();
    let mut msix = Msix::new(3, &source).unwrap();
    let vectors = msix.vectors().clone();
    unmask(&mut msix, 1, 7);
    vectors.fire(1);
    vectors.fire(1);
    let mut pending = [0];
    msix.read_pending(0, &mut pending);
    assert_eq!((pending, source.fired().len()), ([0b10], 0));
    msix.set_control(ENABLE | FUNCTION_MASK);
    assert_eq!(source.fired().len(), 0);
    msix.set_control(ENABLE);
    assert_eq!(source.fired(), [Msi { address: 0xfee0_0000, data: 7 }]);
    vectors.fire(1);
    vectors.fire(2);
    vectors.fire(NO_VECTOR);
    assert_eq!(source.fired().len(), 2);
    unmask(&mut msix, 2, 9);
    assert_eq!(source.fired()[2].data, 9);
}

#[test]
fn states_go_round_and_impossible_ones_are_refused() {
    let source = fake::FakeSource::default();
    let mut msix = Msix::new(2, &source).unwrap();
    unmask(&mut msix, 0, 1);
    msix.vectors().fire(0);
    let state = msix.save();
    let mut other = Msix::new(2, &source).unwrap();
    other.restore(state.clone()).unwrap();
    assert_eq!(other.save(), state);
    assert_eq!(Msix::new(3, &source).unwrap().restore(state), Err("number of MSI-X vectors"));
}

#[test]
fn odd_table_accesses_do_nothing() {
    let source = fake::FakeSource::default();
    let mut msix = Msix::new(1, &source).unwrap();
    let before = msix.save();
    msix.write_table(12, &[0]);
    msix.write_table(6, &[0; 4]);
    msix.write_table(16, &[0; 4]);
    msix.write_table(12, &[0; 16]);
    let mut beyond = [0xff; 4];
    msix.read_table(1 << 40, &mut beyond);
    assert_eq!((msix.save(), beyond), (before, [0xff; 4]));
}

#[test]
fn a_back_end_s_signals_are_pending_until_nothing_masks_them() {
    let source = fake::FakeSource::default();
    let mut msix = Msix::new(2, &source).unwrap();
    let vector = Vector::new(msix.vectors(), 1);
    let outside = vector.event_fd().unwrap();
    let pending = |msix: &Msix| {
        let mut bits = [0];
        msix.read_pending(0, &mut bits);
        bits[0]
    };
    assert_eq!(pending(&msix), 0);
    outside.write(1).unwrap();
    assert_eq!(pending(&msix), 0b10);
    outside.write(1).unwrap();
    unmask(&mut msix, 1, 7);
    assert!(source.fired().is_empty(), "MSI-X is off");
    msix.set_control(ENABLE);
    assert!(!source.fired().is_empty());
    assert_eq!((source.fired()[0].data, pending(&msix)), (7, 0));

    msix.set_control(ENABLE | FUNCTION_MASK);
    outside.write(1).unwrap();
    assert_eq!(msix.save().pending, [false, true]);
    msix.reset();
    outside.write(1).unwrap();
    msix.reset();
    assert_eq!(pending(&msix), 0, "a reset forgets what was pending");
}

#[test]
fn a_signal_just_before_unmasking_is_sent() {
    let source = fake::FakeSource::default();
    let mut msix = Msix::new(1, &source).unwrap();
    let outside = Vector::new(msix.vectors(), 0).event_fd().unwrap();
    msix.set_control(ENABLE);
    outside.write(1).unwrap();
    unmask(&mut msix, 0, 7);
    assert_eq!(source.fired().len(), 1);
}

#[test]
fn a_table_has_1_to_2048_vectors() {
    let source = fake::FakeSource::default();
    let largest = Msix::new(2048, &source).unwrap();
    assert_eq!(largest.capability(0, 0, 0).1[..2], 2047u16.to_le_bytes());
    for impossible in [0, 2049, 65_536, 65_537, usize::MAX] {
        let error = Msix::new(impossible, &source).err().unwrap();
        assert_eq!(error, VectorCountError(impossible));
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn states_with_bits_that_no_guest_can_set_are_refused() {
    let source = fake::FakeSource::default();
    let mut msix = Msix::new(1, &source).unwrap();
    let fresh = msix.save();
    let odd_control = MsixState { control: 1, ..fresh.clone() };
    assert_eq!(msix.restore(odd_control), Err("MSI-X message control"));
    let odd_entry = MsixState { entries: vec![Entry { control: 2, ..RESET_ENTRY }], ..fresh.clone() };
    assert_eq!(msix.restore(odd_entry), Err("MSI-X vector control"));
    assert_eq!(msix.save(), fresh);
}

#[test]
fn what_is_fired_while_the_guest_masks_and_unmasks_is_never_lost() {
    let source = fake::FakeSource::default();
    let mut msix = Msix::new(1, &source).unwrap();
    msix.set_control(ENABLE);
    unmask(&mut msix, 0, 7);
    let vectors = msix.vectors().clone();
    for _ in 0..200 {
        let before = source.fired().len();
        std::thread::scope(|scope| {
            scope.spawn(|| vectors.fire(0));
            for _ in 0..3 {
                msix.write_table(12, &1u32.to_le_bytes());
                msix.set_control(ENABLE | FUNCTION_MASK);
                msix.write_table(12, &0u32.to_le_bytes());
                msix.set_control(ENABLE);
            }
        });
        assert_eq!(source.fired().len(), before + 1);
    }
}
