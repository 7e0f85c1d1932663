use super::AuthenticationRequest as Request;
use super::*;
use bytes::Bytes;
use proptest::prelude::*;

const TLS: fn() -> Channel = || Channel::Tls { end_point: Some(vec![7; 32]) };

fn authenticator(channel: Channel, binding: ChannelBindingMode, require_auth: &str) -> Authenticator {
    let require_auth = RequireAuth::parse(require_auth).unwrap();
    Authenticator::new("md5_user", Some("password".to_owned()), channel, binding, require_auth)
}

fn sasl(mechanisms: &[&str]) -> Request {
    Request::Sasl { mechanisms: mechanisms.iter().map(|&name| name.to_owned()).collect() }
}

/// The answer to one request, without type and length.
fn answer(authenticator: &mut Authenticator, request: &Request) -> Result<Vec<u8>, AuthenticationError> {
    let mut out = BytesMut::new();
    authenticator.handle_request(request, &mut out)?;
    Ok(out.get(5..).unwrap_or_default().to_vec())
}

/// The error of the first request.
fn refusal(channel: Channel, binding: ChannelBindingMode, require_auth: &str, request: &Request) -> String {
    match answer(&mut authenticator(channel, binding, require_auth), request) {
        Ok(_) => "none".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn answers_password_requests() {
    let new = || authenticator(Channel::Plain, ChannelBindingMode::Prefer, "");
    assert_eq!(answer(&mut new(), &Request::CleartextPassword).unwrap(), b"password\0");
    let salt = [0x2a, 0x3d, 0x8f, 0xe0];
    assert_eq!(
        answer(&mut new(), &Request::Md5Password { salt }).unwrap(),
        b"md562af4dd09bbb41884907a838a3233294\0"
    );
}

#[test]
fn a_missing_password_is_an_error_of_its_own() {
    for password in [None, Some(String::new())] {
        for request in
            [Request::CleartextPassword, Request::Md5Password { salt: [0; 4] }, sasl(&[SCRAM_SHA_256])]
        {
            let require_auth = RequireAuth::default();
            let mut authenticator = Authenticator::new(
                "u",
                password.clone(),
                Channel::Plain,
                ChannelBindingMode::Prefer,
                require_auth,
            );
            assert!(matches!(answer(&mut authenticator, &request), Err(AuthenticationError::PasswordNeeded)));
        }
    }
}

#[test]
fn chooses_the_mechanism_as_libpq_does() {
    use ChannelBindingMode::{Disable, Prefer, Require};
    let both = &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256][..];
    let no_end_point = Channel::Tls { end_point: None };
    for (channel, binding, mechanisms, expected) in [
        (TLS(), Prefer, both, "SCRAM-SHA-256-PLUS p=tls-server-end-point,,"),
        (TLS(), Require, both, "SCRAM-SHA-256-PLUS p=tls-server-end-point,,"),
        (TLS(), Disable, both, "SCRAM-SHA-256 n,,"),
        (TLS(), Prefer, &[SCRAM_SHA_256][..], "SCRAM-SHA-256 y,,"),
        (Channel::Plain, Prefer, &[SCRAM_SHA_256][..], "SCRAM-SHA-256 n,,"),
        (no_end_point.clone(), Prefer, both, "SCRAM-SHA-256 n,,"),
    ] {
        let sent = answer(&mut authenticator(channel, binding, ""), &sasl(mechanisms)).unwrap();
        let (mechanism, rest) = sent.split_at(sent.iter().position(|&b| b == 0).unwrap());
        let shown = format!("{} {}", mechanism.escape_ascii(), rest[5..].escape_ascii());
        assert!(shown.starts_with(&format!("{expected}n=,r=")), "{shown} {expected}");
    }
    for (channel, binding, mechanisms, expected) in [
        (Channel::Plain, Require, both, "channel binding required, but SSL not in use"),
        (
            Channel::Plain,
            Prefer,
            both,
            "server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection",
        ),
        (
            TLS(),
            Require,
            &[SCRAM_SHA_256][..],
            "channel binding is required, but server did not offer an authentication method that supports channel binding",
        ),
        (
            no_end_point,
            Require,
            both,
            "channel binding is required, but the server certificate's signature algorithm has no digest for it",
        ),
        (
            TLS(),
            Prefer,
            &["OAUTHBEARER"][..],
            "none of the server's SASL authentication mechanisms are supported",
        ),
        (
            TLS(),
            Disable,
            &[SCRAM_SHA_256_PLUS][..],
            "none of the server's SASL authentication mechanisms are supported",
        ),
    ] {
        assert_eq!(refusal(channel, binding, "", &sasl(mechanisms)), expected);
    }
}

#[test]
fn channel_binding_cannot_be_talked_away() {
    let refusal = |request| refusal(TLS(), ChannelBindingMode::Require, "", &request);
    let impossible = "channel binding required but not supported by server's authentication request";
    assert_eq!(refusal(Request::CleartextPassword), impossible);
    assert_eq!(refusal(Request::Md5Password { salt: [0; 4] }), impossible);
    assert_eq!(
        refusal(Request::Ok),
        "channel binding required, but server authenticated client without channel binding"
    );
}

#[test]
fn require_auth_is_enforced() {
    use ChannelBindingMode::Prefer;
    let md5 = Request::Md5Password { salt: [0; 4] };
    for (require_auth, request, reason) in [
        ("scram-sha-256", Request::CleartextPassword, "server requested a cleartext password"),
        ("scram-sha-256", md5.clone(), "server requested a hashed password"),
        ("scram-sha-256", Request::Ok, "server did not complete authentication"),
        ("!none", Request::Ok, "server did not complete authentication"),
        ("!scram-sha-256", sasl(&[SCRAM_SHA_256]), "server requested SASL authentication"),
        ("none", md5, "server requested a hashed password"),
        ("md5", Request::Unsupported { code: 7 }, "server requested GSSAPI authentication"),
    ] {
        let expected = format!("authentication method requirement \"{require_auth}\" failed: {reason}");
        assert_eq!(refusal(TLS(), Prefer, require_auth, &request), expected);
    }
    assert_eq!(refusal(TLS(), Prefer, "none,md5", &Request::Ok), "none");
    assert_eq!(
        refusal(TLS(), Prefer, "", &Request::Unsupported { code: 7 }),
        "GSSAPI authentication not supported"
    );
}

#[test]
fn a_server_must_finish_what_it_began() {
    let begin = || {
        let mut authenticator =
            authenticator(Channel::Plain, ChannelBindingMode::Prefer, "none,scram-sha-256");
        let sent = answer(&mut authenticator, &sasl(&[SCRAM_SHA_256])).unwrap();
        let nonce = String::from_utf8(sent).unwrap().split("r=").nth(1).unwrap().to_owned();
        (authenticator, nonce)
    };
    let (mut broken_off, nonce) = begin();
    assert!(matches!(answer(&mut broken_off, &Request::Ok), Err(AuthenticationError::ServerNotVerified)));
    assert!(!nonce.is_empty() && answer(&mut broken_off, &Request::Ok).is_err());

    let first =
        |nonce: &str, count: &str| Request::SaslContinue(format!("r={nonce}x,s=c2FsdA==,i={count}").into());
    let (mut proved, nonce) = begin();
    answer(&mut proved, &first(&nonce, "4096")).unwrap();
    assert!(matches!(answer(&mut proved, &Request::Ok), Err(AuthenticationError::ServerNotVerified)));

    let (mut lied_to, nonce) = begin();
    answer(&mut lied_to, &first(&nonce, "4096")).unwrap();
    let final_message =
        Request::SaslFinal(Bytes::from_static(b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="));
    assert!(matches!(answer(&mut lied_to, &final_message), Err(AuthenticationError::Scram(_))));

    for count in ["0", "100001", "4294967295", "99999999999999"] {
        let (mut overworked, nonce) = begin();
        let error = answer(&mut overworked, &first(&nonce, count)).unwrap_err();
        assert!(matches!(error, AuthenticationError::IterationCount { .. }), "{count}: {error}");
    }

    let (mut flooded, _) = begin();
    let long = Request::SaslContinue(vec![b'x'; MAX_SASL_MESSAGE_LEN + 1].into());
    assert!(matches!(answer(&mut flooded, &long), Err(AuthenticationError::MessageTooLong { .. })));
}

#[test]
fn one_method_is_enough() {
    let mut authenticator = authenticator(Channel::Plain, ChannelBindingMode::Prefer, "");
    answer(&mut authenticator, &Request::Md5Password { salt: [0; 4] }).unwrap();
    assert!(matches!(
        answer(&mut authenticator, &Request::CleartextPassword),
        Err(AuthenticationError::Unexpected { .. })
    ));
}

#[test]
fn nothing_is_answered_after_the_end() {
    let mut authenticator = authenticator(Channel::Plain, ChannelBindingMode::Prefer, "");
    let mut out = BytesMut::new();
    assert_eq!(authenticator.handle_request(&Request::Ok, &mut out).unwrap(), Progress::Done);
    assert!(authenticator.handle_request(&Request::Ok, &mut out).is_err());
    assert!(authenticator.handle_request(&Request::CleartextPassword, &mut out).is_err());
    assert!(out.is_empty());
}

proptest! {
    #[test]
    fn no_conversation_panics(data in prop::collection::vec(any::<u8>(), 0..300)) {
        crate::wire::fuzzing::fuzz_authentication(&data);
    }
}
