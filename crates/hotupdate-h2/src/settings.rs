//! The settings that one side has announced (RFC 9113, section 6.5).

use crate::frame::{DEFAULT_MAX_FRAME_SIZE, INITIAL_WINDOW};

/// A setting by its number. Those that h2 does not know are not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Setting {
    /// `SETTINGS_HEADER_TABLE_SIZE`
    HeaderTableSize = 1,
    /// `SETTINGS_ENABLE_PUSH`
    EnablePush = 2,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`
    MaxConcurrentStreams = 3,
    /// `SETTINGS_INITIAL_WINDOW_SIZE`
    InitialWindowSize = 4,
    /// `SETTINGS_MAX_FRAME_SIZE`
    MaxFrameSize = 5,
    /// `SETTINGS_MAX_HEADER_LIST_SIZE`
    MaxHeaderListSize = 6,
    /// `SETTINGS_ENABLE_CONNECT_PROTOCOL` (RFC 8441)
    EnableConnectProtocol = 8,
}

impl Setting {
    pub(crate) const ALL: [Self; 7] = [
        Self::HeaderTableSize,
        Self::EnablePush,
        Self::MaxConcurrentStreams,
        Self::InitialWindowSize,
        Self::MaxFrameSize,
        Self::MaxHeaderListSize,
        Self::EnableConnectProtocol,
    ];

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| *setting as u16 == number)
    }

    /// Whether less of it can be too little for what a client sends that has not heard of it.
    fn limits_the_client(self) -> bool {
        match self {
            Self::HeaderTableSize
            | Self::InitialWindowSize
            | Self::MaxFrameSize
            | Self::EnableConnectProtocol => true,
            // A stream too many is refused, and its client tries again; long headers are answered with status
            // 431.
            Self::EnablePush | Self::MaxConcurrentStreams | Self::MaxHeaderListSize => false,
        }
    }

    /// What holds as long as nothing is announced.
    fn default_value(self) -> u32 {
        match self {
            Self::HeaderTableSize => 4096,
            Self::EnablePush => 1,
            Self::MaxConcurrentStreams | Self::MaxHeaderListSize => u32::MAX,
            Self::InitialWindowSize => INITIAL_WINDOW as u32,
            Self::MaxFrameSize => DEFAULT_MAX_FRAME_SIZE,
            Self::EnableConnectProtocol => 0,
        }
    }
}

/// What one side of a connection has announced so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    announced: [Option<u32>; Setting::ALL.len()],
}

impl Settings {
    /// What holds: what was announced last, or the default of RFC 9113. No limit is `u32::MAX`.
    #[inline]
    pub fn value(&self, setting: Setting) -> u32 {
        self.announced(setting).unwrap_or(setting.default_value())
    }

    /// `None` if it was never announced.
    #[inline]
    pub fn announced(&self, setting: Setting) -> Option<u32> {
        Setting::ALL.iter().position(|one| *one == setting).and_then(|place| self.announced[place])
    }

    pub(crate) fn set(&mut self, setting: Setting, value: u32) {
        if let Some(place) = Setting::ALL.iter().position(|one| *one == setting) {
            self.announced[place] = Some(value);
        }
    }

    /// Follows the payload of a SETTINGS frame. Whether it is valid is for hyper to say.
    pub(crate) fn follow(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let &[a, b, c, d, e, f] = setting else { continue };
            if let Some(known) = Setting::from_number(u16::from_be_bytes([a, b])) {
                self.set(known, u32::from_be_bytes([c, d, e, f]));
            }
        }
    }

    /// The payload of a SETTINGS frame that says the same.
    pub(crate) fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(6 * Setting::ALL.len());
        for setting in Setting::ALL {
            if let Some(value) = self.announced(setting) {
                payload.extend_from_slice(&(setting as u16).to_be_bytes());
                payload.extend_from_slice(&value.to_be_bytes());
            }
        }
        payload
    }

    /// What has to be announced to a peer that knows what was announced `before`, so that these hold.
    pub(crate) fn changes(&self, before: &Self) -> Self {
        let mut changes = Self::default();
        for setting in Setting::ALL {
            // Extended CONNECT cannot be taken back (RFC 8441, section 3).
            let taken_back = setting == Setting::EnableConnectProtocol && self.value(setting) == 0;
            if self.value(setting) != before.value(setting) && !taken_back {
                changes.set(setting, self.value(setting));
            }
        }
        changes
    }

    /// The first limit of a client that is lower now than it was.
    pub(crate) fn lowers(&self, before: &Self) -> Option<Setting> {
        Setting::ALL
            .into_iter()
            .find(|setting| setting.limits_the_client() && self.value(*setting) < before.value(*setting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_announced_last_holds() {
        let mut settings = Settings::default();
        assert_eq!(settings.value(Setting::InitialWindowSize), 65_535);
        settings.follow(b"\0\x04\0\0\0\x01\0\x99\0\0\0\x02\0\x04\0\0\0\x03cut");
        assert_eq!(settings.value(Setting::InitialWindowSize), 3);
        settings.set(Setting::HeaderTableSize, 7);
        let mut same = Settings::default();
        same.follow(&settings.payload());
        assert_eq!(same, settings);
        assert_eq!(settings.changes(&settings), Settings::default());
        assert_eq!(Settings::default().changes(&settings).value(Setting::InitialWindowSize), 65_535);
    }

    #[test]
    fn only_what_limits_a_client_can_be_too_low() {
        let with = |setting, value| {
            let mut settings = Settings::default();
            settings.set(setting, value);
            settings
        };
        let default = Settings::default();
        assert_eq!(with(Setting::MaxConcurrentStreams, 1).lowers(&default), None);
        assert_eq!(with(Setting::InitialWindowSize, 1).lowers(&default), Some(Setting::InitialWindowSize));
        assert_eq!(default.lowers(&with(Setting::InitialWindowSize, 1)), None);
        let connect = with(Setting::EnableConnectProtocol, 1);
        assert_eq!(default.lowers(&connect), Some(Setting::EnableConnectProtocol));
    }
}
