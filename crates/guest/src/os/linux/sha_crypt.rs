//! Passwords hashed as crypt(5) writes them: SHA-512, `$6$`. By Ulrich
//! Drepper's "Unix crypt using SHA-256 and SHA-512", version 0.6, whose step
//! numbers stand beside the code.

use sha2::{Digest, Sha512};

/// What the specification takes where nothing else is said.
const ROUNDS: u32 = 5000;

/// The longest salt that counts.
const MAX_SALT: usize = 16;

/// Of crypt(3)'s own base 64.
const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// `$6$salt$hash`.
pub(super) fn hash(password: &[u8], salt: &str) -> String {
    let salt = salt.get(..MAX_SALT).unwrap_or(salt);
    format!("$6${salt}${}", encode(&digest(password, salt.as_bytes(), ROUNDS)))
}

/// Letters of a salt, six random bits each.
pub(super) fn salt(random: [u8; MAX_SALT]) -> String {
    random.into_iter().map(|byte| letter(u32::from(byte))).collect()
}

fn letter(six_bits: u32) -> char {
    char::from(LETTERS[(six_bits & 63) as usize])
}

fn digest(password: &[u8], salt: &[u8], rounds: u32) -> [u8; 64] {
    // Steps 4 to 8.
    let mut b = Sha512::new();
    b.update(password);
    b.update(salt);
    b.update(password);
    let b: [u8; 64] = b.finalize().into();
    // Steps 1 to 3, 9 to 12.
    let mut a = Sha512::new();
    a.update(password);
    a.update(salt);
    update_cycled(&mut a, &b, password.len());
    let mut bits = password.len();
    while bits > 0 {
        if bits & 1 == 1 {
            a.update(b)
        } else {
            a.update(password)
        }
        bits >>= 1;
    }
    let mut a: [u8; 64] = a.finalize().into();
    // Steps 13 to 16.
    let mut dp = Sha512::new();
    for _ in 0..password.len() {
        dp.update(password);
    }
    let p = cycled(&dp.finalize(), password.len());
    // Steps 17 to 20.
    let mut ds = Sha512::new();
    for _ in 0..16 + usize::from(a[0]) {
        ds.update(salt);
    }
    let s = cycled(&ds.finalize(), salt.len());
    // Step 21.
    for round in 0..rounds {
        let mut c = Sha512::new();
        if round % 2 == 1 {
            c.update(&p)
        } else {
            c.update(a)
        }
        if round % 3 != 0 {
            c.update(&s);
        }
        if round % 7 != 0 {
            c.update(&p);
        }
        if round % 2 == 1 {
            c.update(a)
        } else {
            c.update(&p)
        }
        a = c.finalize().into();
    }
    a
}

fn cycled(block: &[u8], length: usize) -> Vec<u8> {
    block.iter().copied().cycle().take(length).collect()
}

fn update_cycled(hash: &mut Sha512, block: &[u8; 64], length: usize) {
    hash.update(cycled(block, length));
}

/// Step 22: groups of three bytes, 21 apart and turned by one group after the
/// other, and the last byte alone.
fn encode(hash: &[u8; 64]) -> String {
    let mut text = String::with_capacity(86);
    let (mut a, mut b, mut c) = (0, 21, 42);
    for _ in 0..21 {
        let mut word = u32::from(hash[a]) << 16 | u32::from(hash[b]) << 8 | u32::from(hash[c]);
        for _ in 0..4 {
            text.push(letter(word));
            word >>= 6;
        }
        (a, b, c) = (b + 1, c + 1, a + 1);
    }
    text.push(letter(u32::from(hash[63])));
    text.push(letter(u32::from(hash[63]) >> 6));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the specification, "Test vectors".
    #[test]
    fn published_vectors() {
        assert_eq!(
            hash(b"Hello world!", "saltstring"),
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        );
        let text = b"Hello world!";
        assert_eq!(
            encode(&digest(text, b"saltstringsaltst", 10_000)),
            "OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v.",
        );
        let text =
            b"a very much longer text to encrypt.  This one even stretches over morethan one line.";
        assert_eq!(
            encode(&digest(text, b"anotherlongsalts", 1400)),
            "POfYwTEok97VWcjxIiSOjiykti.o/pQs.wPvMxQ6Fm7I6IoYN3CmLs66x9t0oSwbtEW7o7UmJEiDwGqd8p4ur1",
        );
    }

    #[test]
    fn salts_are_of_the_letters() {
        let salt = salt(std::array::from_fn(|at| u8::try_from(at * 16).unwrap()));
        assert_eq!(salt.len(), MAX_SALT);
        assert!(salt.bytes().all(|byte| LETTERS.contains(&byte)), "{salt}");
        let long = hash(b"x", "0123456789abcdefXYZ");
        assert_eq!(long, hash(b"x", "0123456789abcdef"));
    }
}
