use super::*;
use crate::authorization::Scope;
use crate::hygiene;
use crate::path::PathSettings;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA384,
    RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use meltemi_types::meltemi::{ClaimToHeader, HeaderPlace, PolicyTarget, TokenPlace, jwt_rule, policy_target};
use meltemi_types::meltemi::{JwtRule, token_place};
use serde_json::{Value, json};
use std::sync::LazyLock;

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key that signs, and what its issuer publishes of it.
enum Signer {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Signer {
    fn public(&self, id: &str) -> Value {
        match self {
            Self::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "x": base64(x), "y": base64(y)})
            }
            Self::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": base64(pair.public_key())})
            }
            Self::Rsa(pair) => {
                let parts = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "kid": id, "n": base64(parts.n), "e": base64(parts.e)})
            }
        }
    }

    fn sign(&self, algorithm: &str, message: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ec(pair) => pair.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let padding: &'static dyn aws_lc_rs::signature::RsaEncoding =
                    if algorithm == "PS384" { &RSA_PSS_SHA384 } else { &RSA_PKCS1_SHA256 };
                pair.sign(padding, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
        }
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let signature = self.sign(header["alg"].as_str().unwrap_or_default(), &message);
        format!("{message}.{}", base64(signature))
    }
}

fn ec() -> Signer {
    let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.unwrap().as_ref());
    Signer::Ec(pair.unwrap())
}

static EC: LazyLock<Signer> = LazyLock::new(ec);
static OTHER: LazyLock<Signer> = LazyLock::new(ec);
static ED: LazyLock<Signer> = LazyLock::new(|| {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Signer::Ed(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
});
static RSA: LazyLock<Signer> =
    LazyLock::new(|| Signer::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())));

fn set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn claims(more: Value) -> Value {
    let mut all = json!({"iss": "https://issuer", "sub": "ann", "exp": now() + 600});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn good() -> String {
    EC.token(&json!({"alg": "ES256", "kid": "ec"}), &claims(json!({})))
}

/// Of the issuer, with its three keys.
fn rule() -> JwtRule {
    JwtRule {
        issuer: "https://issuer".into(),
        keys: Some(jwt_rule::Keys::Jwks(set(&[EC.public("ec"), ED.public("ed"), RSA.public("rsa")]))),
        ..Default::default()
    }
}

fn policy(name: &str, rules: Vec<JwtRule>) -> wire::RequestAuthentication {
    wire::RequestAuthentication {
        namespace: "shop".into(),
        name: name.into(),
        targets: vec![PolicyTarget { kind: Some(policy_target::Kind::Waypoint(true)) }],
        rules,
        ..Default::default()
    }
}

fn with(rules: Vec<JwtRule>) -> Authentication {
    let authentication = Authentication::default();
    authentication.synced();
    assert_eq!(put(&authentication, &policy("p", rules)), []);
    authentication
}

fn put(authentication: &Authentication, policy: &wire::RequestAuthentication) -> Vec<(String, String)> {
    let name = format!("{}/{}", policy.namespace, policy.name);
    authentication.apply([(&*name, &*policy.encode_to_vec())], &[])
}

struct Passed {
    principal: Option<String>,
    headers: HeaderMap,
    query: Option<String>,
}

/// Sends a request through; the text is why it was refused.
fn ask(authentication: &Authentication, target: &str, headers: &[(&str, &str)]) -> Result<Passed, String> {
    let mut request = Request::builder().uri(target).header("host", "cart");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let limits = crate::settings::Settings::default().header_limits();
    let mut admitted = hygiene::admit(&mut parts, PathSettings::default(), limits).unwrap();
    let claims = authentication
        .authenticate(&[Scope::Waypoint], &mut parts.headers, &mut admitted)
        .map_err(|reply| format!("{}: {}", reply.cause.as_str(), reply.message))?;
    let principal = claims.and_then(|claims| claims.principal().map(str::to_owned));
    Ok(Passed { principal, headers: parts.headers, query: admitted.query })
}

fn bearer(authentication: &Authentication, token: &str) -> Result<Option<String>, String> {
    ask(authentication, "/", &[("authorization", &format!("Bearer {token}"))]).map(|passed| passed.principal)
}

#[test]
fn nothing_passes_before_discovery_has_answered_and_all_where_nothing_is_asked() {
    let authentication = Authentication::default();
    assert!(ask(&authentication, "/", &[]).is_err());
    authentication.synced();
    let passed = ask(&authentication, "/", &[("authorization", "Bearer x")]).unwrap();
    assert_eq!(passed.headers["authorization"], "Bearer x");
}

#[test]
fn a_request_without_token_passes_and_one_with_a_good_token_has_its_principal() {
    let authentication = with(vec![rule()]);
    assert_eq!(ask(&authentication, "/", &[]).unwrap().principal, None);
    for token in [
        good(),
        ED.token(&json!({"alg": "EdDSA"}), &claims(json!({}))),
        RSA.token(&json!({"alg": "RS256", "kid": "rsa"}), &claims(json!({}))),
        RSA.token(&json!({"alg": "PS384"}), &claims(json!({}))),
    ] {
        assert_eq!(bearer(&authentication, &token), Ok(Some("https://issuer/ann".into())));
    }
}

#[test]
fn bad_tokens_are_refused() {
    let authentication = with(vec![JwtRule { audiences: vec!["shop".into(), "web".into()], ..rule() }]);
    let es = json!({"alg": "ES256"});
    let aud = |more: Value| {
        let mut all = claims(json!({"aud": "shop"}));
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let forged = {
        let token = EC.token(&es, &aud(json!({})));
        let (message, _) = token.rsplit_once('.').unwrap();
        let (head, _) = message.split_once('.').unwrap();
        let other = base64(aud(json!({"sub": "root"})).to_string());
        format!("{head}.{other}.{}", token.rsplit('.').next().unwrap())
    };
    let unsigned =
        format!("{}.{}.", base64(json!({"alg": "none"}).to_string()), base64(aud(json!({})).to_string()));
    let hmac = {
        // With the public key as the secret.
        let message =
            format!("{}.{}", base64(json!({"alg": "HS256"}).to_string()), base64(aud(json!({})).to_string()));
        let secret = EC.public("ec").to_string();
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
        format!("{message}.{}", base64(aws_lc_rs::hmac::sign(&key, message.as_bytes())))
    };
    for (what, token, want) in [
        ("fits", EC.token(&es, &aud(json!({}))), None),
        ("one audience of several", EC.token(&es, &aud(json!({"aud": ["x", "web"]}))), None),
        ("no expiry", EC.token(&es, &json!({"iss": "https://issuer", "aud": "web"})), None),
        ("within the skew", EC.token(&es, &aud(json!({"exp": now() - 30, "nbf": now() + 30}))), None),
        ("expired", EC.token(&es, &aud(json!({"exp": now() - 90}))), Some("expired")),
        ("early", EC.token(&es, &aud(json!({"nbf": now() + 90}))), Some("not valid yet")),
        ("expiry of no form", EC.token(&es, &aud(json!({"exp": "never"}))), Some("wrong form")),
        ("other audience", EC.token(&es, &aud(json!({"aud": "bank"}))), Some("audience")),
        ("no audience", EC.token(&es, &claims(json!({}))), Some("audience")),
        ("audience of no form", EC.token(&es, &aud(json!({"aud": 7}))), Some("audience")),
        ("other issuer", EC.token(&es, &aud(json!({"iss": "https://issuer/"}))), Some("no rule")),
        ("issuer in a list", EC.token(&es, &aud(json!({"iss": ["https://issuer"]}))), Some("can be read")),
        ("no issuer", EC.token(&es, &json!({"aud": "web"})), Some("can be read")),
        ("forged", forged, Some("signature")),
        ("other key", OTHER.token(&es, &aud(json!({}))), Some("signature")),
        ("unknown kid", EC.token(&json!({"alg": "ES256", "kid": "x"}), &aud(json!({}))), Some("no key")),
        (
            "another key's kid",
            EC.token(&json!({"alg": "ES256", "kid": "rsa"}), &aud(json!({}))),
            Some("no key"),
        ),
        ("none", unsigned, Some("can be read")),
        ("hmac with the public key", hmac, Some("no key")),
        (
            "critical",
            EC.token(&json!({"alg": "ES256", "crit": ["b64"], "b64": false}), &aud(json!({}))),
            Some("extensions"),
        ),
        ("opaque", "abc".to_owned(), Some("can be read")),
        ("four parts", format!("{}.x", EC.token(&es, &aud(json!({})))), Some("can be read")),
        ("no JSON", format!("{}.bm8.bm8", base64("no")), Some("can be read")),
    ] {
        let got = bearer(&authentication, &token);
        match want {
            None => assert!(got.is_ok(), "{what}: {got:?}"),
            Some(why) => {
                let refused = got.expect_err(what);
                assert!(refused.starts_with("invalid_token: ") && refused.contains(why), "{what}: {refused}");
            }
        }
    }
}

#[test]
fn every_token_must_be_good_wherever_it_lies() {
    let place = |kind| TokenPlace { kind: Some(kind) };
    let places = vec![
        place(token_place::Kind::Header(HeaderPlace { name: "x-token".into(), prefix: "JWT ".into() })),
        place(token_place::Kind::Parameter("t".into())),
        place(token_place::Kind::Cookie("c".into())),
    ];
    let authentication = with(vec![JwtRule { places, ..rule() }]);
    let token = good();
    let passed = ask(
        &authentication,
        &format!("/?a=1&t={token}"),
        &[
            ("x-token", &format!("jwt {token}")),
            ("cookie", &format!("s=1; c={token}")),
            ("authorization", "Bearer x"),
        ],
    )
    .unwrap();
    assert_eq!(passed.principal.as_deref(), Some("https://issuer/ann"));
    assert_eq!(passed.query.as_deref(), Some("a=1"));
    assert_eq!(passed.headers["cookie"], "s=1");
    assert!(!passed.headers.contains_key("x-token"));
    assert_eq!(passed.headers["authorization"], "Bearer x", "not a place of the rule's");
    let header = format!("JWT {token}");
    assert!(ask(&authentication, "/?t=bad", &[("x-token", &header)]).is_err());
    assert!(ask(&authentication, "/", &[("x-token", &header), ("cookie", "c=bad")]).is_err());
    assert!(ask(&authentication, "/", &[("x-token", &header), ("x-token", "JWT bad")]).is_err());
}

#[test]
fn several_issuers_and_the_first_token_is_the_principals() {
    let place = |name: &str| TokenPlace {
        kind: Some(token_place::Kind::Header(HeaderPlace { name: name.into(), prefix: String::new() })),
    };
    let other = JwtRule {
        issuer: "https://other".into(),
        keys: Some(jwt_rule::Keys::Jwks(set(&[OTHER.public("k")]))),
        places: vec![place("x-b")],
        ..Default::default()
    };
    let authentication = with(vec![JwtRule { places: vec![place("x-a")], ..rule() }, other]);
    let theirs = OTHER.token(&json!({"alg": "ES256"}), &json!({"iss": "https://other", "sub": "bob"}));
    let principal =
        |headers: &[(&str, &str)]| ask(&authentication, "/", headers).map(|passed| passed.principal);
    assert_eq!(principal(&[("x-b", &theirs)]), Ok(Some("https://other/bob".into())));
    assert_eq!(principal(&[("x-b", &theirs), ("x-a", &good())]), Ok(Some("https://issuer/ann".into())));
    assert!(principal(&[("x-a", &theirs)]).is_err(), "a token in another issuer's place");
    // Not even the other issuer's name makes its key this issuer's.
    let forged = OTHER.token(&json!({"alg": "ES256"}), &claims(json!({})));
    assert!(principal(&[("x-a", &forged)]).is_err());
}

#[test]
fn claims_reach_the_endpoint_only_from_tokens() {
    let output = |header: &str, claim: &str| ClaimToHeader { header: header.into(), claim: claim.into() };
    let authentication = with(vec![JwtRule {
        outputs: vec![output("x-user", "sub"), output("x-team", "realm.team"), output("x-none", "absent")],
        output_payload_to_header: "x-payload".into(),
        forward_original_token: true,
        ..rule()
    }]);
    let spoofed =
        [("x-user", "root"), ("x-team", "root"), ("x-none", "root"), ("x-payload", "root"), ("x-own", "1")];
    let passed = ask(&authentication, "/", &spoofed).unwrap();
    assert_eq!(passed.headers.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["x-own"]);
    let payload = claims(json!({"realm": {"team": "blue"}}));
    let token = EC.token(&json!({"alg": "ES256"}), &payload);
    let bearer = format!("Bearer {token}");
    let mut headers = spoofed.to_vec();
    headers.push(("authorization", &bearer));
    let passed = ask(&authentication, "/", &headers).unwrap();
    assert_eq!(passed.headers["x-user"], "ann");
    assert_eq!(passed.headers["x-team"], "blue");
    assert!(!passed.headers.contains_key("x-none"));
    assert_eq!(passed.headers["x-payload"], base64(payload.to_string()));
    assert_eq!(passed.headers["authorization"], bearer);
}

#[test]
fn keys_come_change_and_stay_while_they_are_needed() {
    let key_set = |keys: &[Value]| wire::KeySet { jwks: set(keys), requires: vec![] }.encode_to_vec();
    let named = JwtRule { keys: Some(jwt_rule::Keys::KeySet("uri:k".into())), ..rule() };
    let authentication = with(vec![named.clone()]);
    let old = good();
    let new = OTHER.token(&json!({"alg": "ES256", "kid": "new"}), &claims(json!({})));
    assert!(bearer(&authentication, &old).unwrap_err().contains("not known"));
    assert_eq!(authentication.apply_keys([("uri:k", &*key_set(&[EC.public("ec")]))], &[]), []);
    assert!(bearer(&authentication, &old).is_ok());
    assert!(bearer(&authentication, &new).is_err());
    // Both, while issuers change over; then the old one's tokens end though they were verified before.
    authentication.apply_keys([("uri:k", &*key_set(&[EC.public("ec"), OTHER.public("new")]))], &[]);
    assert!(bearer(&authentication, &old).is_ok() && bearer(&authentication, &new).is_ok());
    authentication.apply_keys([("uri:k", &*key_set(&[OTHER.public("new")]))], &[]);
    assert!(bearer(&authentication, &old).is_err() && bearer(&authentication, &new).is_ok());
    // What cannot be read, and what is taken back, leaves the last good keys.
    assert_eq!(authentication.apply_keys([("uri:k", &b"\xff"[..])], &[]).len(), 1);
    authentication.apply_keys([], &["uri:k".to_owned()]);
    assert!(bearer(&authentication, &new).is_ok());
    // Until no rule names them.
    authentication.apply([], &["shop/p".to_owned()]);
    put(&authentication, &policy("p", vec![named]));
    assert!(bearer(&authentication, &new).is_err());
}

#[test]
fn keys_are_for_their_own_use_alone() {
    let mut encrypting = EC.public("ec");
    encrypting["use"] = json!("enc");
    let mut signing = EC.public("ec");
    signing["key_ops"] = json!(["sign"]);
    let mut other = EC.public("ec");
    other["alg"] = json!("ES384");
    let secret = json!({"kty": "oct", "k": base64("secret"), "alg": "HS256"});
    let message =
        format!("{}.{}", base64(json!({"alg": "HS256"}).to_string()), base64(claims(json!({})).to_string()));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"secret");
    let hmac = format!("{message}.{}", base64(aws_lc_rs::hmac::sign(&key, message.as_bytes())));
    for (keys, token) in [
        (encrypting, good()),
        (signing, good()),
        (other, good()),
        (secret, hmac),
        (json!({"kty": "EC", "crv": "P-256"}), good()),
        (json!(7), good()),
    ] {
        let authentication = with(vec![JwtRule { keys: Some(jwt_rule::Keys::Jwks(set(&[keys]))), ..rule() }]);
        assert!(bearer(&authentication, &token).unwrap_err().contains("no key"));
    }
}

#[test]
fn an_object_that_is_not_understood_closes_what_it_is_for() {
    type Change = fn(&mut wire::RequestAuthentication);
    let cases: &[(&str, Change)] = &[
        ("requires", |p| p.requires.push("magic".into())),
        ("targets", |p| p.targets.clear()),
        ("rules[0].issuer", |p| p.rules[0].issuer.clear()),
        ("rules[0].keys", |p| p.rules[0].keys = None),
        ("rules[0].jwks", |p| p.rules[0].keys = Some(jwt_rule::Keys::Jwks(b"{}".to_vec()))),
        ("rules[0].places[0]", |p| p.rules[0].places.push(TokenPlace::default())),
        ("rules[0].outputs[0].header", |p| {
            p.rules[0].outputs.push(ClaimToHeader { header: "host".into(), claim: "a".into() });
        }),
        ("rules[0].output_payload_to_header", |p| p.rules[0].output_payload_to_header = "a b".into()),
    ];
    for (field, change) in cases {
        let authentication = with(vec![rule()]);
        let mut bad = policy("p", vec![rule()]);
        change(&mut bad);
        let apply = || authentication.apply([("shop/p", &*bad.encode_to_vec())], &[]);
        let refused = apply();
        assert!(refused[0].1.starts_with(&format!("{field}: ")), "{field}: {refused:?}");
        assert!(bearer(&authentication, &good()).is_ok(), "{field}: the last good version is gone");
        authentication.apply([], &["shop/p".to_owned()]);
        apply();
        assert!(ask(&authentication, "/", &[]).is_err(), "{field}: open");
    }
}

/// What anybody may send: it is refused or it is not, and nothing breaks.
#[test]
fn whatever_is_sent_as_a_token_is_answered() {
    use rand::{Rng, SeedableRng};
    let authentication = with(vec![rule()]);
    let token = good();
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let mut refused = 0;
    for _ in 0..20_000 {
        let mut bytes = token.clone().into_bytes();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..3) {
                0 => bytes[at] = random.random_range(0x21..0x7f),
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b"._-=A"[random.random_range(0..5)]),
            }
        }
        let mutated = String::from_utf8(bytes).unwrap();
        if mutated != token && bearer(&authentication, &mutated).is_err() {
            refused += 1;
        }
    }
    assert!(refused > 19_000, "{refused}");
}
