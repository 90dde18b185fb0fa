//! What PostgreSQL's clients say in front of TLS: the requests for it, and their answers.
//!
//! Knows: the bytes. Never: who sends them, what is done for whom.
//! Source: PostgreSQL's documentation, "Message Formats" (SSLRequest, GSSENCRequest).

/// May TLS come next?
pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// May GSSAPI encryption come next?
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
/// It may.
pub(crate) const YES: u8 = b'S';
/// It may not, and the client may ask for something else on the same connection.
pub(super) const NO: u8 = b'N';

/// What a client begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    Tls,
    Gss,
    /// One of them, cut; or nothing yet.
    Begun,
    /// Something else: TLS itself, or a session without any encryption.
    None,
}

impl Opening {
    /// Of all that has come.
    pub(super) fn of(said: &[u8]) -> Self {
        let begins = |with: &[u8; 8]| said.iter().zip(with).all(|(a, b)| a == b);
        match (begins(&SSL_REQUEST), begins(&GSS_REQUEST)) {
            (false, false) => Self::None,
            _ if said.len() < SSL_REQUEST.len() => Self::Begun,
            (true, _) => Self::Tls,
            (false, true) => Self::Gss,
        }
    }
}
