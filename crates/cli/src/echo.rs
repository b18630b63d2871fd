//! The echo of the terminal, off while a secret is typed.

#[cfg(unix)]
pub(crate) use imp::HiddenEcho;

/// Restores the echo if the process ends during a prompt.
pub(crate) fn restore() {
    #[cfg(unix)]
    imp::restore();
}

#[cfg(unix)]
mod imp {
    use std::fs::File;
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

    /// The saved mode of the terminal while the echo is off.
    static BEFORE: Mutex<Option<(Arc<File>, Termios)>> = Mutex::new(None);

    /// Turns the echo off until this is dropped.
    pub(crate) struct HiddenEcho;

    impl HiddenEcho {
        pub(crate) fn new(terminal: &Arc<File>) -> io::Result<Self> {
            let before = tcgetattr(terminal)?;
            let mut hidden = before.clone();
            hidden.local_modes.remove(LocalModes::ECHO);
            // The line feed is echoed, so that the next output begins on a new line.
            hidden.local_modes.insert(LocalModes::ECHONL);
            *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some((Arc::clone(terminal), before));
            let guard = Self;
            tcsetattr(terminal, OptionalActions::Now, &hidden)?;
            Ok(guard)
        }
    }

    impl Drop for HiddenEcho {
        fn drop(&mut self) {
            restore();
        }
    }

    pub(super) fn restore() {
        if let Some((terminal, before)) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A closed terminal needs no echo.
            let _gone = tcsetattr(terminal, OptionalActions::Now, &before);
        }
    }
}
