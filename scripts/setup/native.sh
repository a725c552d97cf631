#!/bin/sh
# native.sh PYTHON FOLDER: compile the optional part of the package, for any Python from 3.11 on, into a folder that has
# twinhost; it needs a C compiler and Python's headers. Without it agents work alike and use more CPU time for a request.
set -eu
cd "$(dirname "$0")/../.."
source=twinhost/secure_zmq/framing/_messages
exec "${CC:-cc}" -std=c11 -O2 -Wall -Wextra -Wno-unused-parameter -Wno-cast-function-type -shared -fPIC \
    -DPy_LIMITED_API=0x030B0000 -I"$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
    "services/$source.c" -o "$2/$source.abi3.so"
