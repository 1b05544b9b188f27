# Runs a program where nothing can be written but below one folder: sh confined.sh <folder> <program> [argument...]
# In a mount namespace of its own (`unshare --mount`), with every file system in it read-only but for that folder.
set -eu
folder=$1
shift
mount --make-rprivate /
mount --bind "$folder" "$folder"
cat /proc/self/mountinfo | while read -r _ _ _ _ at options _; do
    case $at in
    "$folder" | /proc | /proc/* | /sys | /sys/*) continue ;;
    esac
    # What a namespace of an unprivileged user must not take away.
    all=ro
    for option in nosuid nodev noexec noatime nodiratime relatime; do
        case ,$options, in
        *,$option,*) all=$all,$option ;;
        esac
    done
    mount -o "remount,bind,$all" "$at"
done
# The program is to find what a container with a read-only root gives it; were it not so, this would prove nothing.
for place in / /tmp "$HOME" .; do
    if (: >"$place/.lakeferry-writable") 2>/dev/null; then
        rm -f "$place/.lakeferry-writable"
        echo "$place can be written to" >&2
        exit 97
    fi
done
: >"$folder/.writable"
rm "$folder/.writable"
exec "$@"
