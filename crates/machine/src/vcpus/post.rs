//! The way of a question to vCPUs' threads, and of the answers back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use hv::{Error, Kicker};

use super::VcpuError;
use super::thread::Mail;

/// Where one vCPU's thread gets its mail.
#[derive(Clone)]
pub(super) struct Post {
    mail: Sender<Mail>,
    kicker: Arc<dyn Kicker>,
}

impl Post {
    pub(super) fn new(mail: Sender<Mail>, kicker: Box<dyn Kicker>) -> Self {
        Self { mail, kicker: kicker.into() }
    }

    pub(super) fn send(&self, mail: Mail) {
        // A thread that is gone needs no mail.
        if self.mail.send(mail).is_ok() {
            self.kicker.kick();
        }
    }
}

/// Asks all of them at once, then collects the answers. Together they have `patience` for it.
pub(super) fn ask<'a, T>(
    posts: impl IntoIterator<Item = (u32, &'a Post)>,
    patience: Duration,
    question: impl Fn(Sender<T>) -> Mail,
) -> Result<Vec<(u32, T)>, VcpuError> {
    let asked: Vec<(u32, Receiver<T>)> = posts
        .into_iter()
        .map(|(vcpu, post)| {
            let (answer, answers) = mpsc::channel();
            post.send(question(answer));
            (vcpu, answers)
        })
        .collect();
    let deadline = Instant::now() + patience;
    let answer = |(vcpu, answers): (u32, Receiver<T>)| {
        let left = deadline.saturating_duration_since(Instant::now());
        answers.recv_timeout(left).map(|answer| (vcpu, answer)).map_err(|e| match e {
            RecvTimeoutError::Timeout => VcpuError::Silent { vcpu, limit: patience },
            RecvTimeoutError::Disconnected => VcpuError::Ended(vcpu),
        })
    };
    asked.into_iter().map(answer).collect()
}

/// As [`ask`], for what the hypervisor may refuse.
pub(super) fn try_ask<'a, T>(
    posts: impl IntoIterator<Item = (u32, &'a Post)>,
    patience: Duration,
    question: impl Fn(Sender<Result<T, Error>>) -> Mail,
) -> Result<BTreeMap<u32, T>, VcpuError> {
    let refused = |vcpu| move |source| VcpuError::Hypervisor { vcpu, source };
    let answers = ask(posts, patience, question)?.into_iter();
    answers.map(|(vcpu, answer)| Ok((vcpu, answer.map_err(refused(vcpu))?))).collect()
}
