use std::io::Read;

use clap::Args;

use crate::failure::Failure;

/// How cloud-init sets a disk image's system up.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options for disk images with cloud-init")]
pub(crate) struct CloudInitArgs {
    /// Who may log in by ssh: a public key, or a file of them; repeats
    #[arg(long, value_name = "KEY|FILE")]
    pub ssh_key: Vec<String>,
    /// The user's name, in place of the image's own (debian, ubuntu, …)
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// That user's password as `openssl passwd -6` prints it, to log in on a
    /// console; - reads it from stdin
    #[arg(long, value_name = "HASH")]
    pub password_hash: Option<String>,
    /// Installed from the distribution's archive; repeats
    #[arg(long, value_name = "NAME")]
    pub package: Vec<String>,
    /// Set it up by cloud-init and install the guest agent in it, as the other
    /// options here do, too; FILE is user data of your own, - is stdin
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub cloud_init: Option<Option<String>>,
}

impl CloudInitArgs {
    /// Adds it to a request.
    pub(crate) fn put_in(&self, request: &mut inn_api::VmCreate) -> Result<(), Failure> {
        let from_stdin = self.password_hash.as_deref() == Some("-");
        if from_stdin && self.cloud_init == Some(Some("-".to_owned())) {
            return Err(Failure::usage(
                "--password-hash and --cloud-init cannot both be read from stdin; give one a file",
            ));
        }
        for key in &self.ssh_key {
            request.ssh_public_keys.extend(keys(key)?);
        }
        let password_hash = match &self.password_hash {
            Some(_) if from_stdin => Some(read("-")?.trim().to_owned()),
            given => given.clone(),
        };
        let user_data =
            self.cloud_init.iter().flatten().next().map(|file| read(file)).transpose()?;
        let wanted = inn_api::CloudInit {
            user: self.user.clone(),
            password_hash,
            packages: self.package.clone(),
            user_data,
        };
        if self.cloud_init.is_some() || wanted != inn_api::CloudInit::default() {
            request.cloud_init = Some(wanted);
        }
        Ok(())
    }
}

/// What looks like a key is one; all else is a file's name.
fn keys(given: &str) -> Result<Vec<String>, Failure> {
    let kinds = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"];
    if kinds.iter().any(|kind| given.starts_with(kind)) && given.contains(' ') {
        return Ok(vec![given.to_owned()]);
    }
    let text = read(given)?;
    let lines = text.lines().map(str::trim);
    let keys: Vec<String> =
        lines.filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect();
    if keys.is_empty() {
        return Err(Failure::new(format!("there is no ssh key in {given}")));
    }
    Ok(keys)
}

fn read(file: &str) -> Result<String, Failure> {
    if file == "-" {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        return match read {
            Ok(_) => Ok(text),
            Err(error) => Err(Failure::because("cannot read stdin", &error)),
        };
    }
    std::fs::read_to_string(file)
        .map_err(|error| Failure::because(format!("cannot read {file}"), &error))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CloudInitArgs,
    }

    fn request(line: &[&str]) -> Result<inn_api::VmCreate, Failure> {
        let args = Line::parse_from(["inn"].iter().chain(line)).args;
        let mut request = inn_api::VmCreate::default();
        args.put_in(&mut request).map(|()| request)
    }

    #[test]
    fn keys_come_by_themselves_or_in_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.pub");
        std::fs::write(&file, "# mine\nssh-ed25519 AAAA a\n\nssh-rsa BBBB b\n").unwrap();
        let file = file.to_str().unwrap();
        let made = request(&["--ssh-key", file, "--ssh-key", "ssh-ed25519 CCCC c"]).unwrap();
        let wanted = ["ssh-ed25519 AAAA a", "ssh-rsa BBBB b", "ssh-ed25519 CCCC c"];
        assert_eq!(made.ssh_public_keys, wanted);
        assert_eq!(made.cloud_init, None);
        assert!(request(&["--ssh-key", "/not/there.pub"]).is_err());
    }

    #[test]
    fn cloud_init_is_asked_for_with_or_without_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("user-data");
        std::fs::write(&file, "#cloud-config\n").unwrap();
        assert_eq!(request(&[]).unwrap().cloud_init, None);
        let bare = request(&["--cloud-init", "--user", "ada"]).unwrap().cloud_init.unwrap();
        assert_eq!((bare.user.as_deref(), bare.user_data), (Some("ada"), None));
        let with = request(&["--cloud-init", file.to_str().unwrap(), "--package", "jq"]).unwrap();
        let with = with.cloud_init.unwrap();
        assert_eq!(with.user_data.as_deref(), Some("#cloud-config\n"));
        assert_eq!(with.packages, ["jq"]);
        assert!(request(&["--cloud-init", "-", "--password-hash", "-"]).is_err());
    }
}
