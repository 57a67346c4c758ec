# Shared by quickstart, test and the tests' fixtures; sourced, never run.
#
# Everything comes from the distribution's own package archive, through the
# sources this host already uses. Only Debian and Ubuntu are known here.
# shellcheck shell=bash

[ -n "${INN_PARTS_LOADED:-}" ] && return
INN_PARTS_LOADED=1

# The oldest toolchain that builds the workspace (rust-version in Cargo.toml).
RUST_MIN=1.95

say() { printf '%s\n' "$*" >&2; }
die() { say "$(basename -- "$0"): $*"; exit 1; }

now_ms() { local t=${EPOCHREALTIME/[.,]/}; printf '%s' "$((t / 1000))"; }

# --- steps and the time each took -------------------------------------------

STEP_NAMES=()
STEP_MS=()

# step NAME COMMAND… : runs it in this shell and keeps the time.
step() {
    local name=$1 from
    shift
    say "==> $name"
    from=$(now_ms)
    "$@"
    STEP_NAMES+=("$name")
    STEP_MS+=("$(($(now_ms) - from))")
}

print_steps() {
    local i total=0
    printf '\n%-36s %10s\n' 'step' 'seconds'
    for i in "${!STEP_NAMES[@]}"; do
        total=$((total + STEP_MS[i]))
        printf '%-36s %6d.%03d\n' "${STEP_NAMES[i]}" $((STEP_MS[i] / 1000)) $((STEP_MS[i] % 1000))
    done
    printf '%-36s %6d.%03d\n' 'all' $((total / 1000)) $((total % 1000))
}

# --- the distribution --------------------------------------------------------

# Sets DISTRO (debian or ubuntu) and SUITE, or says why it can't.
know_distribution() {
    local id='' id_like='' codename=''
    [ -r /etc/os-release ] || die 'there is no /etc/os-release: this needs Debian or Ubuntu'
    # shellcheck disable=SC1091
    id=$(. /etc/os-release && printf '%s' "${ID:-}")
    # shellcheck disable=SC1091
    id_like=$(. /etc/os-release && printf '%s' "${ID_LIKE:-}")
    # shellcheck disable=SC1091
    codename=$(. /etc/os-release && printf '%s' "${UBUNTU_CODENAME:-${VERSION_CODENAME:-}}")
    case " $id $id_like " in
        *' ubuntu '*) DISTRO=ubuntu ;;
        *' debian '*) DISTRO=debian ;;
        *) die "this needs Debian or Ubuntu, and /etc/os-release says '$id'" ;;
    esac
    [ -n "$codename" ] || die '/etc/os-release names no release codename'
    SUITE=$codename
    [ "$(dpkg --print-architecture)" = amd64 ] ||
        die "virtual machines are x86-64 only as yet, and this host is $(dpkg --print-architecture)"
}

need_root() {
    [ "$(id -u)" = 0 ] || die 'run it as root: it installs packages and makes device nodes'
}

APT_FRESH=
apt_update_once() {
    [ -n "$APT_FRESH" ] && return
    apt-get update -qq || die 'apt-get update failed: see its message above'
    APT_FRESH=1
}

# need_packages PACKAGE… : installs those that are missing.
need_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    apt_update_once
    say "installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
        >/dev/null || die "apt-get could not install ${missing[*]}: see its message above"
}

# Puts a cargo of at least RUST_MIN on PATH.
need_rust() {
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    local have
    have=$(cargo --version 2>/dev/null | cut -d' ' -f2) || have=''
    if [ -z "$have" ] || [ "$(printf '%s\n' "$RUST_MIN" "$have" | sort -V | head -n1)" != "$RUST_MIN" ]; then
        die "Rust $RUST_MIN or later is needed and ${have:-none} is there: get it with rustup (https://rustup.rs), then run this again"
    fi
}

# --- a kernel for the guests -------------------------------------------------

# Names of the packages that hold the distribution's kernel for virtual machines.
kernel_packages() {
    local meta=linux-image-cloud-amd64 image
    [ "$DISTRO" = ubuntu ] && meta=linux-image-virtual
    image=$(package_depends "$meta" '^linux-image-[0-9]' | head -n1)
    [ -n "$image" ] || die "the package $meta names no kernel: is the main component in your apt sources?"
    printf '%s\n' "$image"
    # Ubuntu keeps the modules in a package of their own.
    package_depends "$image" '^linux-modules-[0-9]'
}

package_depends() {
    apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks \
        --no-replaces --no-enhances "$1" | sed -n 's/^ *Depends: //p' | grep -E "$2" || true
}

# fetch_kernel DIR : unpacks the distribution's kernel into DIR/VERSION, unless
# some kernel is there. Nothing is installed on the host.
fetch_kernel() {
    local dir=$1 work packages image version
    compgen -G "$dir/*/boot/vmlinuz-*" >/dev/null && return
    apt_update_once
    packages=$(kernel_packages)
    image=$(head -n1 <<<"$packages")
    version=${image#linux-image-}
    mkdir -p "$dir"
    # What an earlier run that was cut short has left.
    rm -rf "$dir"/.new-*
    work=$(mktemp -d "$dir/.new-XXXXXX")
    # shellcheck disable=SC2086
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root $packages) ||
        { rm -rf "$work"; die "could not download $packages"; }
    mkdir "$work/root"
    local deb
    for deb in "$work"/*.deb; do dpkg -x "$deb" "$work/root"; done
    # Newer packages keep modules below usr/lib.
    if [ ! -d "$work/root/lib/modules" ] && [ -d "$work/root/usr/lib/modules" ]; then
        mkdir -p "$work/root/lib"
        mv "$work/root/usr/lib/modules" "$work/root/lib/modules"
    fi
    rm -rf "$work/root/usr/share"
    mv -T "$work/root" "$dir/$version"
    rm -rf "$work"
    say "kernel $version unpacked into $dir/$version"
}

# unpack_package DIR PACKAGE… : a program of the distribution's whose package
# would start a service, below DIR and nowhere else, with the packages that it
# needs and the host has not.
unpack_package() {
    local dir=$1 package=$2 work deb
    [ -d "$dir" ] && return
    apt_update_once
    mkdir -p "$(dirname "$dir")"
    # What an earlier run that was cut short has left.
    rm -rf "$dir".new-*
    work=$(mktemp -d "$dir.new-XXXXXX")
    (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "${@:2}") ||
        { rm -rf "$work"; die "could not download ${*:2}"; }
    for deb in "$work"/*.deb; do dpkg -x "$deb" "$work/root"; done
    mv -T "$work/root" "$dir"
    rm -rf "$work"
    say "$package unpacked into $dir"
}

# --- images from the distribution's packages --------------------------------

# The host's own sources of the distribution, one apt line each.
apt_sources() {
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' | sort -u | while read -r origin uri release component; do
        case "$origin" in Debian | Ubuntu) ;; *) continue ;; esac
        case "$release" in "$SUITE" | "$SUITE-updates" | "$SUITE-security") ;; *) continue ;; esac
        case "$component" in main | universe) ;; *) continue ;; esac
        printf 'deb %s %s %s\n' "$uri" "$release" "$component"
    done
}

# bootstrap OPTION… TARGET : mmdebstrap, from where this host has its packages.
bootstrap() {
    local sources options=() line
    apt_update_once
    sources=$(apt_sources)
    [ -n "$sources" ] || die "your apt sources have no $SUITE of $DISTRO"
    # How this host reaches the archive is how mmdebstrap has to.
    while IFS= read -r line; do options+=("--aptopt=$line"); done < <(
        apt-config dump | grep -E '^Acquire::(https?::Proxy|Check-(Valid-Until|Date)) ' || true
    )
    mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        "${options[@]}" "${@:1:$#-1}" "$SUITE" "${@: -1}" - <<<"$sources"
}

# make_rootfs_tar OUT PACKAGE,PACKAGE… : a minimal root file system with them.
make_rootfs_tar() {
    local out=$1 packages=$2
    bootstrap --format=tar --include="$packages" "$out.part" ||
        { rm -f "$out.part"; die "mmdebstrap could not make $out"; }
    mv "$out.part" "$out"
}

# pack_image LAYOUT TAG TAR COMMAND… : an OCI image of one layer in LAYOUT.
pack_image() {
    local layout=$1 tag=$2 tar=$3 argument
    shift 3
    local command=()
    for argument in "$@"; do command+=(--config.cmd "$argument"); done
    [ -f "$layout/oci-layout" ] || umoci init --layout "$layout"
    umoci new --image "$layout:$tag"
    umoci raw add-layer --image "$layout:$tag" "$tar"
    umoci config --image "$layout:$tag" "${command[@]}" \
        --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        --config.env LANG=C.UTF-8 --config.workingdir /root
}
