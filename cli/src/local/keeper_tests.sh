#!/bin/sh
# Stands for the program itself in the tests of the keeper.
case $1 in
exec-child) shift 4; exec "$@" ;;
guard) exec cat ;;
sidecar) exec sleep 1000 ;;
esac
