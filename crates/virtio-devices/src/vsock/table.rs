//! Who is connected: handshakes and connections by token, connections also by their ports.

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use super::connection::{Connection, Rest};
use super::handshake::Handshake;

/// Connections there can be.
pub(super) const MAX_CONNECTIONS: usize = 1023;
/// Clients that have not said yet what they want. One more, and the oldest has to go: it cannot keep others out.
pub(super) const MAX_HANDSHAKES: usize = 128;
/// Programs that may be slow to take what a guest has left behind. One more, and the oldest does not get it.
const MAX_RESTS: usize = 128;

/// The ports that make a connection what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ports {
    /// The one on the host's side.
    pub local: u32,
    /// The guest's.
    pub guest: u32,
}

/// What a stream is for.
pub(super) enum Peer {
    Handshake(Handshake),
    Connection(Ports, Connection),
    Rest(Rest),
}

impl Peer {
    pub(super) fn stream(&self) -> &UnixStream {
        match self {
            Self::Handshake(handshake) => &handshake.stream,
            Self::Connection(_, connection) => &connection.stream,
            Self::Rest(rest) => &rest.stream,
        }
    }
}

/// Bits of a token that say where its peer stands; the others count who has stood there, so that news of one who is gone is not taken
/// for another's.
const PLACE_BITS: u32 = 11;
const PLACE_MASK: u32 = (1 << PLACE_BITS) - 1;
/// No peer has this token, nor the one below it.
pub(super) const LAST_TOKEN: u32 = PLACE_MASK;

#[derive(Default)]
struct Place {
    /// Goes round.
    turn: u32,
    peer: Option<Peer>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    by_ports: HashMap<Ports, u32>,
    /// In the order in which they came.
    handshakes: VecDeque<u32>,
    rests: VecDeque<u32>,
}

impl Table {
    /// Connections.
    pub(super) fn connections(&self) -> usize {
        self.by_ports.len()
    }

    /// The token of a connection.
    pub(super) fn find(&self, ports: Ports) -> Option<u32> {
        self.by_ports.get(&ports).copied()
    }

    /// The tokens of all peers.
    pub(super) fn tokens(&self) -> Vec<u32> {
        let places = (0u32..).zip(&self.places).filter(|(_, place)| place.peer.is_some());
        places.map(|(index, place)| token(index, place.turn)).collect()
    }

    /// All connections.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Ports, &Connection)> {
        self.places.iter().filter_map(|place| match &place.peer {
            Some(Peer::Connection(ports, connection)) => Some((*ports, connection)),
            _ => None,
        })
    }

    pub(super) fn get(&mut self, token: u32) -> Option<&mut Peer> {
        let place = self.places.get_mut((token & PLACE_MASK) as usize)?;
        if place.turn == token >> PLACE_BITS { place.peer.as_mut() } else { None }
    }

    pub(super) fn connection(&mut self, token: u32) -> Option<(Ports, &mut Connection)> {
        match self.get(token)? {
            Peer::Connection(ports, connection) => Some((*ports, connection)),
            Peer::Handshake(_) | Peer::Rest(_) => None,
        }
    }

    /// Takes a client in. If there are too many, the one that has waited longest is sent away.
    pub(super) fn add_handshake(&mut self, stream: UnixStream) -> u32 {
        if self.handshakes.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.handshakes.front().copied()
        {
            self.remove(oldest);
        }
        let token = self.add(Peer::Handshake(Handshake::new(stream)));
        self.handshakes.push_back(token);
        token
    }

    /// Takes a connection in; there is room for it, and none with these ports.
    pub(super) fn add_connection(&mut self, ports: Ports, connection: Connection) -> u32 {
        let token = self.add(Peer::Connection(ports, connection));
        self.by_ports.insert(ports, token);
        token
    }

    /// Keeps no more of a connection than what its guest has left behind, under the same token; its ports are free.
    pub(super) fn retire(&mut self, token: u32) {
        if self.rests.len() >= MAX_RESTS
            && let Some(oldest) = self.rests.front().copied()
        {
            self.remove(oldest);
        }
        let place = self.places.get_mut((token & PLACE_MASK) as usize);
        let Some(place) = place.filter(|place| place.turn == token >> PLACE_BITS) else { return };
        place.peer = match place.peer.take() {
            Some(Peer::Connection(ports, connection)) => {
                self.by_ports.remove(&ports);
                self.rests.push_back(token);
                Some(Peer::Rest(connection.into_rest()))
            }
            other => other,
        };
    }

    fn add(&mut self, peer: Peer) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let Some(place) = self.places.get_mut(index as usize) else { return LAST_TOKEN };
        place.peer = Some(peer);
        token(index, place.turn)
    }

    /// Sends a peer away, or hands it out.
    pub(super) fn remove(&mut self, token: u32) -> Option<Peer> {
        let place = self.places.get_mut((token & PLACE_MASK) as usize)?;
        if place.turn != token >> PLACE_BITS {
            return None;
        }
        let peer = place.peer.take()?;
        place.turn = (place.turn + 1) & (u32::MAX >> PLACE_BITS);
        self.free.push(token & PLACE_MASK);
        match &peer {
            Peer::Handshake(_) => self.handshakes.retain(|other| *other != token),
            Peer::Connection(ports, _) => drop(self.by_ports.remove(ports)),
            Peer::Rest(_) => self.rests.retain(|other| *other != token),
        }
        Some(peer)
    }
}

fn token(index: u32, turn: u32) -> u32 {
    turn << PLACE_BITS | index
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn stream() -> UnixStream {
        UnixStream::pair().unwrap().0
    }

    #[test]
    fn news_of_one_who_is_gone_reaches_nobody() {
        let mut table = Table::default();
        let first = table.add_handshake(stream());
        assert!(table.remove(first).is_some() && table.remove(first).is_none());
        let second = table.add_handshake(stream());
        assert_ne!(first, second);
        assert!(table.get(first).is_none() && table.get(second).is_some());
        assert_eq!(table.tokens(), [second]);
    }

    #[test]
    fn the_oldest_of_too_many_clients_is_sent_away() {
        let mut table = Table::default();
        let (mut client, ours) = UnixStream::pair().unwrap();
        let oldest = table.add_handshake(ours);
        let others: Vec<u32> = (0..MAX_HANDSHAKES).map(|_| table.add_handshake(stream())).collect();
        assert!(table.get(oldest).is_none());
        assert!(others.iter().all(|token| table.get(*token).is_some()));
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}
