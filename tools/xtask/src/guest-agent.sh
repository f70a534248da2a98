#!/bin/sh
# Serves commands on the terminal $1; the other end is tools/vmtest/src/agent.rs. One request a line: NUMBER COMMAND.
# The answer is the command's output in base64 between two marked lines, the second with the exit code. Everything else
# on the line (the kernel's messages) lies outside the marks.
exec <"$1" >"$1" 2>&1
stty -echo -icanon -isig -ixon -opost icrnl
# The kernel may share this line, and would write into the answers.
dmesg -n 1
echo
echo "@ready"
while read -r number command; do
	[ -n "$number" ] || continue
	sh -c "$command" >/tmp/.answer 2>&1 </dev/null
	status=$?
	echo
	echo "@begin $number"
	base64 /tmp/.answer
	echo "@end $number $status"
done
