use super::*;

fn leaf(text: &str) -> Leaf {
    Leaf::Text(text.to_owned())
}

#[test]
fn listener_addresses() {
    for (text, protocol, address) in [
        ("udp://0.0.0.0:4600", Protocol::Udp, "0.0.0.0:4600"),
        ("tcp://[::]:4600", Protocol::Tcp, "[::]:4600"),
        ("tcp://127.0.0.1:0", Protocol::Tcp, "127.0.0.1:0"),
        ("udp://[fe80::1]:65535", Protocol::Udp, "[fe80::1]:65535"),
    ] {
        let parsed = (LISTENER_ADDRESS.parse)(&leaf(text));
        let address: SocketAddr = address.parse().expect("an address");
        assert_eq!(parsed, Ok((protocol, address)), "{text}");
        let shown = (LISTENER_ADDRESS.show)(&(protocol, address));
        assert_eq!(shown, format!("\"{text}\""));
    }
}

#[test]
fn what_is_no_listener_address_is_refused_with_the_right_form() {
    for (text, message, help) in [
        ("0.0.0.0:4600", "no protocol", "udp://0.0.0.0:4600"),
        ("http://0.0.0.0:4600", "http:// is no protocol", "udp://"),
        (
            "tls://0.0.0.0:6514",
            "not in this version",
            "udp:// and tcp://",
        ),
        (
            "udp://localhost:4600",
            "names are not looked up",
            "udp://127.0.0.1:4600",
        ),
        (
            "tcp://logs.example:4600",
            "names are not looked up",
            "tcp://0.0.0.0:4600",
        ),
        ("udp://0.0.0.0", "has no port", "udp://0.0.0.0:4600"),
        ("udp://:4600", "has no address", "udp://[::]:4600"),
        (
            "tcp://0.0.0.0:66000",
            "\"66000\" is no port",
            "tcp://0.0.0.0:4600",
        ),
        ("udp://fe80::1", "has no port", "udp://[fe80::1]:4600"),
        (
            "tcp://1:2:3:4:5:6:7:8:4600",
            "in brackets",
            "tcp://[1:2:3:4:5:6:7:8]:4600",
        ),
        (
            "udp://0.0.0.0:4600/x",
            "path after the port",
            "udp://0.0.0.0:4600",
        ),
    ] {
        let wrong = (LISTENER_ADDRESS.parse)(&leaf(text)).expect_err(text);
        assert!(wrong.message.contains(message), "{text}: {wrong:?}");
        assert!(wrong.help.contains(help), "{text}: {wrong:?}");
    }
    let wrong = (ADMIN_ADDRESS.parse)(&leaf("http://127.0.0.1:4680/")).expect_err("a scheme");
    assert_eq!(wrong.help, "write \"127.0.0.1:4680\"");
}

#[test]
fn shards_are_auto_or_a_small_number() {
    let number = |text: &str| Leaf::Number(text.to_owned());
    assert_eq!((SHARDS.parse)(&leaf("auto")), Ok(Shards::Auto));
    assert_eq!((SHARDS.parse)(&number("2")), Ok(Shards::Count(2)));
    for bad in [
        leaf("2"),
        number("0"),
        number("257"),
        number("-1"),
        Leaf::Other("a list"),
    ] {
        assert!((SHARDS.parse)(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn min_free_is_a_share_or_a_size() {
    assert_eq!(
        (JOURNAL_MIN_FREE.parse)(&leaf("2.5%")),
        Ok(MinFree::Percent(2.5))
    );
    assert_eq!(
        (JOURNAL_MIN_FREE.parse)(&leaf("1GiB")),
        Ok(MinFree::Bytes(1 << 30))
    );
    for bad in ["91%", "10", "x", ""] {
        assert!((JOURNAL_MIN_FREE.parse)(&leaf(bad)).is_err(), "{bad}");
    }
}

#[test]
fn the_nearest_key_is_found_or_none() {
    let keys = ["max_size", "min_free", "sync", "commit_interval"];
    assert_eq!(nearest("max_sise", &keys), Some("max_size"));
    assert_eq!(nearest("Max-Size", &keys), Some("max_size"));
    assert_eq!(nearest("interval", &keys), Some("commit_interval"));
    assert_eq!(nearest("snyc", &keys), Some("sync"));
    assert_eq!(nearest("colour", &keys), None);
}
