//! The life of a code, and wrong secrets.

use std::sync::Arc;

use config::ConfigFile;
use net::{Access, BlockAnswer, BlockProvider, Net, NetConfig};
use types::Cid;

use super::*;

#[derive(Debug)]
struct Nothing;

impl BlockProvider for Nothing {
    fn read(&self, _: &PeerId, wanted: &[Cid], _: usize) -> Vec<BlockAnswer> {
        wanted.iter().map(|_| BlockAnswer::Missing).collect()
    }
}

async fn pairing(dir: &std::path::Path) -> (Pairing, Net) {
    let file = ConfigFile::new(dir.join("config.toml"));
    file.create().unwrap();
    let config = file.load().unwrap().config;
    let net_config = NetConfig { tcp: vec![([127, 0, 0, 1], 0).into()], ..NetConfig::default() };
    let keypair = net::Keypair::generate_secp256k1();
    let net = Net::start(net_config, keypair, Arc::new(Nothing), Access::new()).await.unwrap();
    (Pairing::new(net.handle(), Settings::new(file, config)), net)
}

/// Returns a message with the secret of the newest code.
fn hello(pairing: &Pairing, addresses: &[&str]) -> Hello {
    let State::Open { secret, .. } = &*pairing.state.lock() else { panic!("no code is open") };
    Hello {
        secret: BASE32_NOPAD.encode(&secret[..]),
        name: "B".into(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        trigger_port: 8086,
    }
}

#[tokio::test]
async fn wrong_secrets_slow_their_sender_down_and_do_not_end_the_code() {
    let dir = tempfile::tempdir().unwrap();
    let (pairing, _net) = pairing(dir.path()).await;
    pairing.open();
    let right = hello(&pairing, &[]).secret;
    let (peer, from) = (PeerId::random(), Some(IpAddr::from([192, 0, 2, 1])));
    let mut pauses = Vec::new();
    for number in 0..10 {
        assert!(!pairing.use_secret(&BASE32_NOPAD.encode(&[number; SECRET_LEN])));
        pauses.push(pairing.count_wrong(peer, from));
    }
    assert_eq!(pauses[..2], [WRONG_PAUSE, 2 * WRONG_PAUSE]);
    assert_eq!(pauses[9], WRONG_PAUSE_MAX);
    // A new peer at the same address is slowed down, too; another one is not.
    assert_eq!(pairing.count_wrong(PeerId::random(), from), WRONG_PAUSE_MAX);
    assert_eq!(pairing.count_wrong(PeerId::random(), None), WRONG_PAUSE);
    for _ in 0..2 * WRONG_PEERS_MAX {
        pairing.count_wrong(PeerId::random(), None);
    }
    assert!(pairing.wrong.lock().len() <= WRONG_PEERS_MAX);
    assert!(matches!(pairing.code_state(), CodeState::Waiting { .. }));
    assert!(pairing.use_secret(&right));
}

#[tokio::test]
async fn the_state_of_a_code_is_right_from_entering_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (pairing, _net) = pairing(dir.path()).await;
    let peer = PeerId::random();
    let before = pairing.settings.get();
    pairing.open();
    let greeting = hello(&pairing, &["/ip4/192.0.2.1/udp/8090/quic-v1"]);
    assert!(pairing.use_secret(&greeting.secret));
    // The state must not be "no code" meanwhile.
    assert_eq!(pairing.code_state(), CodeState::Joining);
    let reply = pairing.add_backup_server(peer, None, &greeting);
    let Reply::Refused { reason } = reply else { panic!("{reply:?}") };
    assert!(reason.contains("listens"), "{reason}");
    let CodeState::Failed(told) = pairing.code_state() else { panic!("it did not fail") };
    assert!(told.contains(&reason), "{told}");
    assert_eq!(pairing.settings.get(), before);

    pairing.open();
    let greeting = hello(&pairing, &["/ip4/192.0.2.1/tcp/8070"]);
    assert!(pairing.use_secret(&greeting.secret) && !pairing.use_secret(&greeting.secret));
    // If the configuration cannot be written, both sides learn about it.
    std::fs::write(dir.path().join("config.toml"), "nonsense").unwrap();
    let Reply::Refused { reason } = pairing.add_backup_server(peer, None, &greeting) else {
        panic!("it was written")
    };
    assert!(reason.contains("config.toml"), "{reason}");
    let CodeState::Failed(told) = pairing.code_state() else { panic!("it did not fail") };
    assert!(told.contains(&reason), "{told}");
}
