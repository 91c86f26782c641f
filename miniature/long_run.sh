#!/bin/sh
# The denoiser's long run on one GPU, within MINUTES by the clock, where no stage has run: no git, npm or network.
#
#   sh miniature/long_run.sh [MINUTES] [STATE]
#
# It goes on from the newest state in STATE, else from the averaged weights in STATE/pieces, else from what is published.
# What it has learned is in STATE/pieces afterwards, in files below 16 MB. Copy all of them: without one of them the run
# cannot go on. Put them where no other state lies, and it goes on from them there, on a CPU as well.
set -eu
minutes=${1:-8}
state=${2:-.scratch/miniature/long_run}
began=$(date +%s)
python3 -m miniature.long_run_inputs --device cuda
spent=$(($(date +%s) - began))
left=$(awk "BEGIN { print $minutes - $spent / 60 - 0.5 }") # half a minute for the start, the last state and the pieces
python3 -m miniature.long_run --device cuda --state "$state" --minutes "$left"
