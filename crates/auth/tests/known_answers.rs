//! Published test vectors, through this crate's wrappers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use hightower_auth::crypto::argon2id::argon2id;
use hightower_auth::crypto::{MacKey, aead};
use hightower_auth::{Argon2Params, SecretHash, SecretHasher};

mod support;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|c| !c.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// RFC 9106, section 5.3.
#[test]
fn argon2id_rfc_9106() {
    let params = Argon2Params::insecure(32, 3, 4).unwrap();
    let mut tag = [0; 32];
    argon2id(params, &[3; 8], &[4; 12], &[1; 32], &[2; 16], &mut tag).unwrap();
    let expected = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659";
    assert_eq!(tag.as_slice(), bytes(expected));
    argon2id(params, &[3; 8], &[4; 11], &[1; 32], &[2; 16], &mut tag).unwrap();
    assert_ne!(tag.as_slice(), bytes(expected));
}

/// The Argon2 reference implementation's test.c: version 0x13, Argon2id.
#[test]
fn argon2id_reference_strings() {
    let hasher = support::cheap_hasher();
    for (password, phc) in [
        ("password", "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"),
        ("password", "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc"),
    ] {
        let hash = SecretHash::from(phc.to_owned());
        assert!(hasher.verify_secret(password.as_bytes(), &hash).unwrap(), "{phc}");
        assert!(!hasher.verify_secret(b"passwore", &hash).unwrap());
    }
}

/// RFC 4231, test cases 1 to 4, 6 and 7 (5 truncates).
#[test]
fn hmac_sha_256_rfc_4231() {
    let long = "Test Using Larger Than Block-Size Key - Hash Key First";
    let longer = "This is a test using a larger than block-size key and a larger than block-size data. \
                  The key needs to be hashed before being used by the HMAC algorithm.";
    let cases: [(Vec<u8>, Vec<u8>, &str); 6] = [
        (vec![0x0b; 20], b"Hi There".to_vec(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe".to_vec(),
            b"what do ya want for nothing?".to_vec(),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (vec![0xaa; 20], vec![0xdd; 50], "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        ((1..=25).collect(), vec![0xcd; 50], "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        (vec![0xaa; 131], long.into(), "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
        (vec![0xaa; 131], longer.into(), "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
    ];
    for (key, data, expected) in cases {
        let key = MacKey::new(&key).unwrap();
        let (left, right) = data.split_at(data.len() / 2);
        assert_eq!(key.tag(&[left, right]).as_slice(), bytes(expected));
        assert!(key.verify(&[&data], &bytes(expected)));
        assert!(!key.verify(&[&data], &bytes(expected)[..31]));
    }
}

/// RFC 5869, test case 1: `derive` is HKDF-Expand; its first 32 bytes do not depend on the rest.
#[test]
fn derived_keys_are_hkdf_expand() {
    let prk = MacKey::new(&bytes("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")).unwrap();
    let okm = bytes("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
    let derived = prk.derive(&bytes("f0f1f2f3f4f5f6f7f8f9")).unwrap();
    assert_eq!(derived.tag(&[b"x"]), MacKey::new(&okm).unwrap().tag(&[b"x"]));
}

/// AES-256-GCM: test cases 13 to 16 of "The Galois/Counter Mode of Operation" (McGrew, Viega),
/// which NIST's CAVP keeps as well.
#[test]
fn aes_256_gcm() {
    let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
    let plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
                 1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255";
    let cipher = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
                  8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad";
    let aad = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    let zero = "00".repeat(32);
    let cases = [
        (zero.as_str(), "000000000000000000000000", "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (
            &zero,
            "000000000000000000000000",
            "",
            "00000000000000000000000000000000",
            "cea7403d4d606b6e074ec5d3baf39d18",
            "d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (key, "cafebabefacedbaddecaf888", "", plain, cipher, "b094dac5d93471bdec1a502270e3cc6c"),
        (key, "cafebabefacedbaddecaf888", aad, &plain[..120], &cipher[..120], "76fc6ece0f4e1768cddf8853bb2d551b"),
    ];
    for (key, nonce, aad, plain, cipher, tag) in cases {
        let (key, nonce) = (bytes(key).try_into().unwrap(), bytes(nonce).try_into().unwrap());
        let sealed = aead::seal(&key, &nonce, &bytes(aad), &bytes(plain)).unwrap();
        assert_eq!(sealed, [bytes(cipher), bytes(tag)].concat());
        assert_eq!(aead::open(&key, &nonce, &bytes(aad), &sealed).unwrap().as_slice(), bytes(plain));
        let mut forged = sealed.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(aead::open(&key, &nonce, &bytes(aad), &forged).is_err());
    }
}

/// NIST's Cryptographic Algorithm Validation Program: the head of the file describes its content.
const NIST_GCM: &str = include_str!("data/nist_gcm_256.txt");

fn field(text: &str) -> Vec<u8> {
    if text == "-" { Vec::new() } else { bytes(text) }
}

/// The published results; and no message opens after a flipped bit in the tag, ciphertext,
/// associated data, nonce or key, or after a truncation.
#[test]
fn aes_256_gcm_nist_cavp() {
    let mut cases = 0;
    for line in NIST_GCM.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<Vec<u8>> = line.split(' ').map(field).collect();
        let [key, nonce, plain, aad, cipher, tag] = <[Vec<u8>; 6]>::try_from(fields).unwrap();
        let (key, nonce): ([u8; 32], [u8; 12]) = (key.try_into().unwrap(), nonce.try_into().unwrap());
        let sealed = aead::seal(&key, &nonce, &aad, &plain).unwrap();
        assert_eq!(sealed, [cipher, tag].concat(), "{line}");
        assert_eq!(*aead::open(&key, &nonce, &aad, &sealed).unwrap(), plain, "{line}");
        for bit in 0..sealed.len() * 8 {
            assert!(aead::open(&key, &nonce, &aad, &flipped(&sealed, bit)).is_err(), "bit {bit} of {line}");
        }
        for bit in 0..aad.len() * 8 {
            assert!(aead::open(&key, &nonce, &flipped(&aad, bit), &sealed).is_err(), "AAD bit {bit} of {line}");
        }
        for bit in 0..nonce.len() * 8 {
            let nonce = flipped(&nonce, bit).try_into().unwrap();
            assert!(aead::open(&key, &nonce, &aad, &sealed).is_err(), "nonce bit {bit} of {line}");
        }
        for bit in 0..key.len() * 8 {
            let key = flipped(&key, bit).try_into().unwrap();
            assert!(aead::open(&key, &nonce, &aad, &sealed).is_err(), "key bit {bit} of {line}");
        }
        for len in 0..sealed.len() {
            assert!(aead::open(&key, &nonce, &aad, &sealed[..len]).is_err(), "{len} bytes of {line}");
        }
        cases += 1;
    }
    assert_eq!(cases, 50);
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}
