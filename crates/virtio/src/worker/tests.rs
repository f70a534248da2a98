use super::*;
use crate::{QueueServer, Workers};

use std::sync::Weak;

use crate::fake::{self, FakeQueue, WRITE};

static PROFILE: Profile = Profile::new("echo", &[sandbox::groups::EPOLL]);

/// Answers every chain with the number of its writable bytes; a chain of one byte is a fault.
struct Echo;

impl Handler for Echo {
    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        context.queues[position].serve(context.ram, |chain| {
            let len = chain.writable().map(|d| d.len()).sum();
            if len == 1 { Err(Fault::Protocol("one byte")) } else { Ok(Some(len)) }
        })
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn echo() -> Workers {
    Workers::new(vec![
        (Worker::spawn(&PROFILE, "echo", Echo).unwrap(), vec![0]),
        (Worker::spawn(&PROFILE, "echo1", Echo).unwrap(), vec![1]),
    ])
}

#[test]
fn queues_go_to_their_workers_and_come_back() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let (mut q0, mut q1) = (FakeQueue::new(&ram, 0, 16), FakeQueue::new(&ram, 0x4000, 16));
    let mut workers = echo();
    for round in 1..3 {
        let (activation, _) = fake::activation(&ram, 0, &[&q0, &q1]);
        let mut activation = activation;
        if round == 2 {
            for queue in &mut activation.queues {
                virtio_queue::QueueT::set_next_avail(&mut queue.queue, 1);
                virtio_queue::QueueT::set_next_used(&mut queue.queue, 1);
            }
        }
        workers.start(activation);
        let head = q0.add(&[(0x1_0000, 7, WRITE)]);
        q0.ring();
        assert_eq!(q0.wait_used(), (head.into(), 7));
        let head = q1.add(&[(0x1_0000, 9, WRITE)]);
        q1.ring();
        assert_eq!(q1.wait_used(), (head.into(), 9));
        workers.stop();
        let queues = workers.stopped(soon()).unwrap();
        assert_eq!(queues.iter().map(|q| q.index).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(virtio_queue::QueueT::next_avail(&queues[0].queue), round);
        assert_eq!(workers.stopping_since, None, "a stop that is over leaves no less time for the end");
    }
}

#[test]
fn buffers_that_were_waiting_are_served_at_start() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut queue = FakeQueue::new(&ram, 0, 16);
    queue.add(&[(0x1_0000, 5, WRITE)]);
    let mut workers = echo();
    workers.start(fake::activation(&ram, 0, &[&queue]).0);
    assert_eq!(queue.wait_used(), (0, 5));
}

#[test]
fn a_fault_breaks_the_device_and_the_queues_still_come_back() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut queue = FakeQueue::new(&ram, 0, 16);
    let mut workers = echo();
    let (activation, config) = fake::activation(&ram, 0, &[&queue]);
    let signals = activation.signals.clone();
    workers.start(activation);
    queue.add(&[(0x1_0000, 1, WRITE)]);
    queue.ring();
    config.wait(1);
    assert!(signals.is_broken());
    workers.stop();
    assert_eq!(workers.stopped(soon()).unwrap().len(), 1);
    assert!(queue.used().is_empty());
}

#[test]
fn an_impossible_available_index_is_a_fault() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut queue = FakeQueue::new(&ram, 0, 16);
    let mut workers = echo();
    let (activation, config) = fake::activation(&ram, 0, &[&queue]);
    workers.start(activation);
    queue.set_avail_index(1000);
    queue.ring();
    config.wait(1);
}

/// Watches the edges of a descriptor. When a bell rings it says so and waits until it may go on.
struct Edges {
    fd: Arc<EventFd>,
    rung: Sender<()>,
    go_on: Receiver<()>,
    edges: Sender<u32>,
}

const EDGE: u32 = 7;

impl Handler for Edges {
    fn start(&mut self, context: &mut Context<'_>, _: u64) -> Result<(), Fault> {
        Ok(context.watch.add(&*self.fd, EDGE, EventSet::IN | EventSet::EDGE_TRIGGERED)?)
    }

    fn queue(&mut self, _: usize, _: &mut Context<'_>) -> Result<(), Fault> {
        let _ = self.rung.send(());
        let _ = self.go_on.recv();
        Ok(())
    }

    fn event(&mut self, token: u32, _: EventSet, _: &mut Context<'_>) -> Result<(), Fault> {
        let _ = self.edges.send(token);
        Ok(())
    }
}

#[test]
fn an_edge_that_comes_with_a_bell_for_mail_that_was_read_before_is_not_lost() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let queue = FakeQueue::new(&ram, 0, 16);
    let fd = Arc::new(host::event_fd().unwrap());
    let ((rung, is_rung), (go, go_on), (edges, seen)) = (mpsc::channel(), mpsc::channel(), mpsc::channel());
    let handler = Edges { fd: fd.clone(), rung, go_on, edges };
    let mut workers = Workers::new(vec![(Worker::spawn(&PROFILE, "edges", handler).unwrap(), vec![0])]);
    workers.start(fake::activation(&ram, 0, &[&queue]).0);
    is_rung.recv().unwrap();
    // As when the thread has found a message before its sender rang.
    workers.workers[0].0.bell.write(1).unwrap();
    fd.write(1).unwrap();
    drop(go);
    assert_eq!(seen.recv_timeout(Duration::from_secs(30)), Ok(EDGE));
}

/// Serves a driver that brings another chain for each that it gets back.
struct Endless(FakeQueue);

impl Handler for Endless {
    fn queue(&mut self, position: usize, context: &mut Context<'_>) -> Result<(), Fault> {
        context.queues[position].serve(context.ram, |_| {
            self.0.add(&[(0x1_0000, 4, WRITE)]);
            Ok(Some(0))
        })
    }
}

#[test]
fn a_driver_that_never_stops_does_not_keep_its_device_from_stopping() {
    let ram = memory::test_ram(&[(0, 0x2_0000)]);
    let mut queue = FakeQueue::new(&ram, 0, 16);
    queue.add(&[(0x1_0000, 4, WRITE)]);
    let activation = fake::activation(&ram, 0, &[&queue]).0;
    let interrupt = queue.interrupt.clone();
    let mut workers =
        Workers::new(vec![(Worker::spawn(&PROFILE, "endless", Endless(queue)).unwrap(), vec![0])]);
    workers.start(activation);
    // It goes on by itself after its first turn.
    interrupt.wait(2);
    workers.stop();
    assert_eq!(workers.stopped(soon()).map(|queues| queues.len()), Some(1));
}

/// Says by its end that its thread has let go of it.
struct Kept(#[expect(dead_code)] Arc<()>);

impl Handler for Kept {
    fn queue(&mut self, _: usize, _: &mut Context<'_>) -> Result<(), Fault> {
        Ok(())
    }
}

#[test]
fn a_worker_that_never_came_to_a_device_ends() {
    let kept = Arc::new(());
    let weak: Weak<()> = Arc::downgrade(&kept);
    drop(Worker::spawn(&PROFILE, "kept", Kept(kept)).unwrap());
    assert_eq!(weak.strong_count(), 0);
}
