#!/bin/sh
# Install craftkit-archive from the wheels beside this script, without a network: ./install.sh DIR
set -eu
[ $# -eq 1 ] || { echo "Usage: ./install.sh DIR, such as /opt/craftkit-archive" >&2; exit 2; }
target=$1
cd "$(dirname "$0")"
. ./platform # PYTHON, PLATFORM, REQUIREMENT

sha256sum --check --quiet SHA256SUMS || { echo "These wheels are not as they were made. Copy them again." >&2; exit 1; }

python=
for candidate in "python$PYTHON" python3; do
  found=$("$candidate" -c 'import sys, sysconfig; print("%d.%d" % sys.version_info[:2], sysconfig.get_platform())' \
    2>/dev/null) || continue
  if [ "$found" = "$PYTHON $PLATFORM" ]; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "These wheels are for Python $PYTHON on $PLATFORM, which is not here (python3: ${found:-not found})." >&2
  echo "Make an archive for this machine: run make offline on one of its kind." >&2
  exit 1
fi

# pip comes as a wheel too: some systems leave it out of new environments.
"$python" -m venv --without-pip "$target"
set -- wheels/pip-*.whl
PIP_CONFIG_FILE=/dev/null "$target/bin/python" "$1/pip" install --quiet --disable-pip-version-check --no-index \
  --find-links wheels --upgrade --force-reinstall "$REQUIREMENT"
"$target/bin/craftkit-archive" --version
echo "Next: ln -s $target/bin/craftkit-archive /usr/local/bin/"
