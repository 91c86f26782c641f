#!/bin/sh
# The denoiser's long run on one GPU, within MINUTES by the clock, where no stage has run: no git, npm or network.
#
#   sh miniature/long_run.sh [MINUTES] [STATE]
#
# It continues from the newest state in STATE, else from the averaged weights in STATE/pieces, else from the published ones.
# At its end it writes the averaged weights to STATE/pieces, in files below 16 MB. Copy all of these: the run cannot
# continue if one is missing. In a folder without another state the run continues from them, on a CPU as well.
set -eu
minutes=${1:-8}
state=${2:-.scratch/miniature/long_run}
began=$(date +%s)
python3 -m miniature.long_run_inputs --device cuda
spent=$(($(date +%s) - began))
left=$(awk "BEGIN { print $minutes - $spent / 60 - 0.5 }") # half a minute for the start, the last state and the pieces
python3 -m miniature.long_run --device cuda --state "$state" --minutes "$left"
