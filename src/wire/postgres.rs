//! PostgreSQL's requests for encryption before TLS starts, and the answers to them.
//!
//! Knows: the bytes. Never: who sends them, what follows from them.
//! Source: PostgreSQL's documentation, "Message Formats" (SSLRequest, GSSENCRequest).

/// SSLRequest: the client asks whether it may start TLS.
pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// GSSENCRequest: the client asks whether it may start GSSAPI encryption.
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];
/// The answer yes.
pub(crate) const YES: u8 = b'S';
/// The answer no. The client may ask for something else on the same connection.
pub(super) const NO: u8 = b'N';

/// What a client's first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    Tls,
    Gss,
    /// The beginning of one of the two requests, or no bytes yet.
    Begun,
    /// Something else: TLS itself, or a session without encryption.
    None,
}

impl Opening {
    /// Classifies all bytes received so far.
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
