//! One table per rule of `spec/config.md` §0.

use serde::Deserialize;

use crate::{Error, Syntax, byte_size, byte_size_opt, from_str, parse_byte_size, spelled_opt};

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct All {
    text: Option<String>,
    on: bool,
    small: u8,
    fd: Option<i32>,
    numbers: Vec<u16>,
    words: Option<Vec<String>>,
    pairs: Vec<(u32, Vec<usize>)>,
    named: Vec<Distance>,
    #[serde(deserialize_with = "byte_size")]
    size: u64,
    #[serde(deserialize_with = "byte_size_opt")]
    extra: Option<u64>,
    #[serde(deserialize_with = "spelled_opt")]
    ip: Option<std::net::IpAddr>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Distance {
    destination: u32,
    distance: u8,
}

fn read(text: &str) -> All {
    from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> String {
    from_str::<All>(text).unwrap_err().to_string()
}

#[test]
fn an_empty_string_sets_nothing() {
    assert_eq!(read(""), All::default());
}

#[test]
fn strings() {
    let cases = [
        ("text=a", "a"),
        ("text=a=b", "a=b"),
        ("text=  a b ", "a b"),
        (r#"text="a,b""#, "a,b"),
        (r#"text="say ""hi"", x""#, r#"say "hi", x"#),
        (r#"text="[""#, "["),
        ("text=[a,b]", "[a,b]"),
        ("text=a,text=b", "b"),
    ];
    for (text, want) in cases {
        assert_eq!(read(text).text.as_deref(), Some(want), "{text}");
    }
    assert_eq!(read("text=,on=on"), All { on: true, ..All::default() });
    assert_eq!(read("text=a,text=").text, None, "the last one wins, and it unsets");
}

#[test]
fn toggles() {
    for (text, want) in
        [("on", true), ("ON", true), ("true", true), ("True", true), ("off", false), ("FALSE", false)]
    {
        assert_eq!(read(&format!("on={text}")).on, want, "{text}");
    }
    assert_eq!(refusal("on=yes"), "Unable to convert yes for on");
}

#[test]
fn integers() {
    assert_eq!(read("small=255").small, 255);
    assert_eq!(read("fd=-1").fd, Some(-1));
    for (text, want) in [
        ("small=256", "Unable to convert 256 for small"),
        ("small=-1", "Unable to convert -1 for small"),
        ("small=x", "Unable to convert x for small"),
        ("fd=1.5", "Unable to convert 1.5 for fd"),
    ] {
        assert_eq!(refusal(text), want);
    }
}

#[test]
fn byte_sizes() {
    let cases = [
        ("0", Some(0)),
        ("512", Some(512)),
        ("1K", Some(1 << 10)),
        ("3M", Some(3 << 20)),
        ("2G", Some(2 << 30)),
        ("1KM", Some(1 << 20)),
        ("1GK", Some(1 << 10)),
        ("1T", None),
        ("1k", None),
        ("1.5G", None),
        ("M", None),
        ("", None),
        ("-1", None),
        ("18446744073709551615G", None),
    ];
    for (text, want) in cases {
        assert_eq!(parse_byte_size(text), want, "{text}");
    }
    assert_eq!(read("size=4K,extra=1G").extra, Some(1 << 30));
    assert_eq!(refusal("size=1T"), "Unable to convert 1T for size");
}

#[test]
fn integer_lists() {
    let cases: [(&str, &[u16]); 5] = [
        ("[0,2-4,7]", &[0, 2, 3, 4, 7]),
        ("1-3", &[1, 2, 3]),
        ("[5]", &[5]),
        ("[]", &[]),
        ("[ 1 , 2 - 3 ]", &[1, 2, 3]),
    ];
    for (text, want) in cases {
        assert_eq!(read(&format!("numbers={text}")).numbers, want, "{text}");
    }
    for text in ["[3-3]", "[4-2]", "[a]", "[1,]", "[65536]", "[65535-65536]", "[1-]", "[-1]", "[1-2-3]"] {
        let want = format!("Unable to convert {text} for numbers");
        assert_eq!(refusal(&format!("numbers={text}")), want);
    }
}

#[test]
fn a_huge_range_is_refused_not_unfolded() {
    let text = "pairs=[0@[0-18446744073709551615]]";
    assert_eq!(refusal(text), "Unable to convert [0@[0-18446744073709551615]] for pairs");
}

#[test]
fn tuple_lists() {
    let all = read("pairs=[0@[0-2],1@[4,6],2@7],named=[1@15,2@25]");
    assert_eq!(all.pairs, [(0, vec![0, 1, 2]), (1, vec![4, 6]), (2, vec![7])]);
    let distance = |destination, distance| Distance { destination, distance };
    assert_eq!(all.named, [distance(1, 15), distance(2, 25)]);
    for text in ["0@[1]", "[@[1]]", "[0@1@2]", "[0]", "[0@]x", "[x@1]"] {
        let want = format!("Unable to convert {text} for pairs");
        assert_eq!(refusal(&format!("pairs={text}")), want);
    }
}

#[test]
fn string_lists() {
    let cases: [(&str, &[&str]); 4] = [
        ("[a,b]", &["a", "b"]),
        ("a", &["a"]),
        (r#"["a,b",c]"#, &[r#""a,b""#, "c"]),
        ("[net0@x]", &["net0@x"]),
    ];
    for (text, want) in cases {
        let words = read(&format!("words={text}")).words.unwrap();
        assert_eq!(words, want, "{text}");
    }
}

#[test]
fn syntax_and_unknown_keys() {
    for (text, want) in [
        ("text=\"a", "Invalid syntax: text=\"a"),
        ("text=[a", "Invalid syntax: text=[a"),
        ("text=a]", "Invalid syntax: text=a]"),
        ("text=a]b[", "Invalid syntax: text=a]b["),
        ("text", "Invalid syntax: text"),
        ("huh=1", "Unknown option: huh"),
        ("huh=", "Unknown option: huh"),
        ("unix:/tmp/x", "Unknown option: unix:/tmp/x"),
        ("small=x,huh=1", "Unknown option: huh"),
    ] {
        assert_eq!(refusal(text), want);
    }
}

#[test]
fn addresses_use_their_text_form() {
    assert_eq!(read("ip=10.0.0.1").ip, Some([10, 0, 0, 1].into()));
    assert_eq!(refusal("ip=10.0.0"), "Unable to convert 10.0.0 for ip");
}

#[test]
fn a_required_key() {
    #[derive(Debug, Deserialize)]
    struct Zone {
        id: String,
    }
    assert_eq!(from_str::<Zone>("").unwrap_err(), Error::Missing("id"));
    assert_eq!(from_str::<Zone>("id=a").unwrap().id, "a");
}

#[test]
fn json_knows_nothing_of_the_command_line() {
    let all: All = serde_json::from_str(r#"{"size":1024,"on":true,"ip":"::1","extra":null}"#).unwrap();
    assert_eq!((all.size, all.on, all.ip), (1024, true, Some("::1".parse().unwrap())));
    for text in [r#"{"size":"1K"}"#, r#"{"on":"on"}"#, r#"{"numbers":"1-3"}"#] {
        assert!(serde_json::from_str::<All>(text).is_err(), "{text}");
    }
}

#[test]
fn a_syntax_lists_renames_and_hides() {
    const SYNTAX: Syntax = Syntax::new("socket=<path>,on=on|off,size=<bytes>")
        .hidden(&["_small"])
        .words(&["tty"])
        .renamed(&[("socket", "text"), ("_small", "small")]);
    let mut options = SYNTAX.parse("tty,socket=/s,_small=2").unwrap();
    assert!(options.take_word("tty"));
    assert!(!options.take_word("tty"));
    let all: All = options.or("size", "1K").or("text", "no").read().unwrap();
    assert_eq!((all.text.as_deref(), all.small, all.size), (Some("/s"), 2, 1024));
    for (text, want) in [
        ("text=a", "Unknown option: text"),
        ("off", "Unknown option: off"),
        ("on", "Invalid syntax: on"),
        ("", ""),
    ] {
        let got = SYNTAX.parse(text).map_or_else(|error| error.to_string(), |_| String::new());
        assert_eq!(got, want);
    }
    let mut options = SYNTAX.parse("_small=x,size=1,on=on").unwrap();
    let own = options.split_off(&["size"]);
    assert_eq!(own.read::<All>().unwrap().size, 1);
    assert_eq!(options.take::<bool>("on").unwrap(), Some(true));
    assert_eq!(options.read::<All>().unwrap_err().to_string(), "Unable to convert x for _small");
}
