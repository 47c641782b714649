//! What `aap-agent buffer` needs with no daemon running. SKELETON.
