//! How flows begin and end.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Faults, SERVICE, config, connect, join, lost, pair, pair_of, service, settle, start};
use crate::ledger::Reason;
use crate::netstack::{AcceptError, DialError, Load, Netstack};

const NOTHING: Load = Load { flows: 0, pending: 0, lingering: 0 };

#[tokio::test(start_paused = true)]
async fn either_side_may_close_first_and_still_read() {
    let (client, server) = pair(Faults::default());
    for dialler_first in [true, false] {
        let (dialled, accepted) = connect(&client, &server).await;
        let (mut first, mut second) = if dialler_first { (dialled, accepted) } else { (accepted, dialled) };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        let mut text = String::new();
        second.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        assert_eq!(first.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);

        second.write_all(b"answer").await.unwrap();
        second.shutdown().await.unwrap();
        text.clear();
        first.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_dial_says_so() {
    let (client, server) = pair(Faults::default());
    let refuse = async {
        let pending = server.accept().await.unwrap();
        assert_eq!(pending.local(), service());
        assert_eq!(pending.remote().ip(), "fd00:1::1".parse::<std::net::IpAddr>().unwrap());
        pending.refuse();
    };
    let (dialled, ()) = tokio::join!(client.dial(service()), refuse);
    assert_eq!(dialled.unwrap_err(), DialError::Refused { remote: service() });
    settle().await;
    assert_eq!((client.load(), server.load()), (NOTHING, NOTHING));
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_accepts_nothing_refuses_at_once() {
    let mut deaf = config(&[super::SERVER]);
    deaf.pending_max = 0;
    let (client, _server) = pair_of(config(&[super::CLIENT]), deaf, Faults::default());
    assert_eq!(client.dial(service()).await.unwrap_err(), DialError::Refused { remote: service() });
}

#[tokio::test(start_paused = true)]
async fn nothing_is_answered_before_the_decision() {
    let (client, server) = pair(Faults::default());
    let dial = client.dial(service());
    tokio::pin!(dial);
    let pending = tokio::select! {
        _ = &mut dial => panic!("connected before anybody accepted"),
        pending = server.accept() => pending.unwrap(),
    };
    // Two repetitions of the SYN fall into this time; neither is another pending flow.
    assert!(tokio::time::timeout(Duration::from_secs(5), &mut dial).await.is_err());
    assert!(tokio::time::timeout(Duration::from_secs(1), server.accept()).await.is_err());
    assert_eq!(server.load(), Load { flows: 0, pending: 1, lingering: 0 });
    assert!(lost(&server, Reason::SynRepeated) >= 2);
    let (dialled, accepted) = tokio::join!(dial, pending.accept());
    let (mut dialled, mut accepted) = (dialled.unwrap(), accepted.unwrap());
    dialled.write_all(b"x").await.unwrap();
    assert_eq!(accepted.read_u8().await.unwrap(), b'x');
}

#[tokio::test(start_paused = true)]
async fn a_flow_dropped_without_a_close_resets_its_peer() {
    let (client, server) = pair(Faults::default());
    let (dialled, mut accepted) = connect(&client, &server).await;
    drop(dialled);
    assert_eq!(accepted.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(accepted.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    settle().await;
    assert_eq!((client.load(), server.load()), (NOTHING, NOTHING));
}

#[tokio::test(start_paused = true)]
async fn bytes_that_arrived_before_a_reset_can_still_be_read() {
    let (client, server) = pair(Faults::default());
    let (mut dialled, mut accepted) = connect(&client, &server).await;
    dialled.write_all(b"last words").await.unwrap();
    settle().await;
    drop(dialled);
    settle().await;
    let mut words = [0; 10];
    accepted.read_exact(&mut words).await.unwrap();
    assert_eq!(&words, b"last words");
    assert_eq!(accepted.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_nobody_answers_ends_when_the_caller_says() {
    let (client, mut port, _) = start(config(&[super::CLIENT]));
    let started = tokio::time::Instant::now();
    assert!(tokio::time::timeout(Duration::from_secs(3), client.dial(service())).await.is_err());
    assert_eq!(started.elapsed().as_secs(), 3);
    settle().await;
    assert_eq!(client.load(), NOTHING);
    let mut packets = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(60), port.recv()).await {
        packets += 1;
    }
    assert_eq!(packets, 3, "SYN at 0 and at 1 second, RST at the end");
    assert_eq!(client.dial(service()).await.unwrap_err(), DialError::TimedOut { remote: service() });
}

#[tokio::test(start_paused = true)]
async fn a_dial_given_up_withdraws_the_pending_flow() {
    let (client, server) = pair(Faults::default());
    let pending = tokio::select! {
        _ = client.dial(service()) => panic!("connected before anybody accepted"),
        pending = server.accept() => pending.unwrap(),
    };
    settle().await;
    assert_eq!(server.load(), NOTHING);
    let remote = pending.remote();
    assert_eq!(pending.accept().await.unwrap_err(), AcceptError::Withdrawn { remote });
}

#[tokio::test(start_paused = true)]
async fn a_pending_flow_is_forgotten_after_half_a_minute() {
    let (client, server) = pair(Faults::default());
    let (dialled, late) = tokio::join!(client.dial(service()), async {
        let pending = server.accept().await.unwrap();
        tokio::time::sleep(Duration::from_secs(31)).await;
        pending.accept().await
    });
    assert!(dialled.is_err());
    assert!(matches!(late.unwrap_err(), AcceptError::TimedOut { .. }));
}

#[tokio::test(start_paused = true)]
async fn dials_that_cannot_be_are_told_apart() {
    let (client, _port, _) = start(config(&[super::CLIENT]));
    let v4 = "192.0.2.1:80".parse().unwrap();
    assert_eq!(client.dial(v4).await.unwrap_err(), DialError::NoAddress { remote: v4 });
    for target in ["[fd00:1::1]:80", "[fd00:2::1]:0", "[ff02::1]:80", "[::1]:80", "[::]:80"] {
        let remote = target.parse().unwrap();
        assert_eq!(client.dial(remote).await.unwrap_err(), DialError::Target { remote });
    }
}

#[tokio::test(start_paused = true)]
async fn flows_beyond_the_limit_are_not_dialled() {
    let mut small = config(&[super::CLIENT]);
    small.flows_max = 2;
    let (client, server) = pair_of(small, config(&[super::SERVER]), Faults::default());
    let one = connect(&client, &server).await;
    let _two = connect(&client, &server).await;
    assert_eq!(client.dial(service()).await.unwrap_err(), DialError::Overloaded);
    drop(one);
    settle().await;
    let _three = connect(&client, &server).await;
}

#[tokio::test(start_paused = true)]
async fn buffers_go_when_both_directions_are_closed_and_unread_bytes_stay() {
    let (client, server) = pair(Faults::default());
    let (mut dialled, mut accepted) = connect(&client, &server).await;
    dialled.shutdown().await.unwrap();
    settle().await;
    accepted.write_all(&[5; 5000]).await.unwrap();
    accepted.shutdown().await.unwrap();
    settle().await;
    assert_eq!(client.load(), Load { flows: 0, pending: 0, lingering: 1 });
    assert_eq!(server.load(), NOTHING);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(client.load(), NOTHING);
    let mut all = Vec::new();
    dialled.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, [5; 5000]);
}

#[tokio::test(start_paused = true)]
async fn a_flow_closed_and_dropped_still_delivers() {
    let (client, server) = pair(Faults { delay: Duration::from_millis(20), ..Faults::default() });
    let (mut dialled, mut accepted) = connect(&client, &server).await;
    dialled.write_all(&[3; 50_000]).await.unwrap();
    dialled.shutdown().await.unwrap();
    drop(dialled);
    let mut all = Vec::new();
    accepted.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 50_000);
    drop(accepted);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((client.load(), server.load()), (NOTHING, NOTHING));
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_close_does_not_wait_for_ever() {
    let (client, server) = pair(Faults::default());
    let (mut dialled, mut accepted) = connect(&client, &server).await;
    dialled.shutdown().await.unwrap();
    drop(dialled);
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(client.load().flows, 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(client.load().flows, 0);
    assert_eq!(accepted.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_times_the_flow_out() {
    let (client, client_port, _) = start(config(&[super::CLIENT]));
    let (server, server_port, driver) = start(config(&[super::SERVER]));
    join(client_port, server_port, Faults::default());
    let (mut dialled, _accepted) = connect(&client, &server).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(client.load().flows, 1, "an idle flow stays");
    // The cable goes with the driver, so nothing is answered; but the client's own end of it must stay plugged in.
    driver.abort();
    let error = dialled.read_u8().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionAborted), "{error}");
}

#[tokio::test(start_paused = true)]
async fn silence_from_the_peer_times_the_flow_out() {
    let (client, port, _) = start(config(&[super::CLIENT]));
    let (server, server_port, _) = start(config(&[super::SERVER]));
    let (to_client, mut from_client) = port.split();
    let (to_server, from_server) = server_port.split();
    let back = tokio::spawn(super::carry(from_server, to_client.clone(), Faults::default()));
    let (cut, mut is_cut) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(packet) = from_client.recv() => if !*is_cut.borrow() { to_server.push(packet); },
                Ok(()) = is_cut.changed() => {}
            }
        }
    });
    let (mut dialled, _accepted) = connect(&client, &server).await;
    cut.send(true).unwrap();
    back.abort();
    let started = tokio::time::Instant::now();
    assert_eq!(dialled.read_u8().await.unwrap_err().kind(), ErrorKind::TimedOut);
    assert!((100..=150).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_driver_ends_with_the_last_handle_and_flow() {
    let (client, client_port, client_driver) = start(config(&[super::CLIENT]));
    let (server, server_port, server_driver) = start(config(&[super::SERVER]));
    join(client_port, server_port, Faults::default());
    let (mut dialled, mut accepted) = connect(&client, &server).await;
    drop((client, server.clone()));
    dialled.write_all(b"still here").await.unwrap();
    let mut text = [0; 10];
    accepted.read_exact(&mut text).await.unwrap();
    drop(dialled);
    client_driver.await.unwrap();
    drop(accepted);
    drop(server);
    server_driver.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pulling_the_port_ends_everything() {
    let (client, server) = {
        let (client, client_port, _) = start(config(&[super::CLIENT]));
        let (server, server_port, _) = start(config(&[super::SERVER]));
        join(client_port, server_port, Faults::default());
        (client, server)
    };
    let (mut dialled, accepted) = connect(&client, &server).await;
    drop(accepted);
    settle().await;
    drop(server);
    // The server's driver is gone and with it the wire, whose end was the client's port.
    assert!(dialled.read_u8().await.is_err());
    assert_eq!(client.dial(service()).await.unwrap_err(), DialError::Closed);
    assert!(client.accept().await.is_none());
    assert_eq!(SERVICE.parse::<std::net::SocketAddr>().unwrap(), service());
}

#[tokio::test(start_paused = true)]
async fn an_unused_handle_keeps_an_idle_driver_alive() {
    let (stack, _port, driver) = start(config(&[super::CLIENT]));
    let copy = Netstack::clone(&stack);
    drop(stack);
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(!driver.is_finished());
    drop(copy);
    driver.await.unwrap();
}
